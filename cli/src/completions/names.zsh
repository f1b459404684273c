
# Names of address spaces, segments and tags, where the script above knows nothing better than files.
_spacejmp_names() {
    local -a line names
    line=(${(Q)${(z)LBUFFER}})
    [[ $LBUFFER == *[[:space:]] ]] && line+=('')
    names=(${(f)"$($line[1] __complete -- "${(@)line[2,-1]}" 2> /dev/null)"})
    if (( $#names )); then
        compadd -a names
    else
        _default
    fi
}
