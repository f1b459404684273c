set file [open words.txt]
set total 0
foreach line [split [string trim [read $file]] "\n"] { incr total [lindex $line 1] }
close $file
puts "$total [clock format 86400 -gmt 1 -format %Y-%m-%d] [lsort {pear fig apple}]"
