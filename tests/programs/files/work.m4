define(`square', `eval($1 * $1)')dnl
square(12) square(7)
syscmd(`echo from the shell')dnl
