
# Names of address spaces, segments and tags. They are printed by the command and never evaluated.
_spacejmp_names() {
    _spacejmp "$@"
    local line=${COMP_LINE:0:COMP_POINT} cut= name
    local -a words names
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    mapfile -t names < <("${words[0]/#\~/$HOME}" __complete -- "${words[@]:1}" 2> /dev/null)
    (( ${#names[@]} )) || return 0
    # Of a word with an `@`, where that ends words, what stands behind it is completed.
    name=${words[${#words[@]} - 1]}
    [[ $COMP_WORDBREAKS == *@* && $name == *@* ]] && cut=${name%"${name##*@}"}
    COMPREPLY=()
    for name in "${names[@]}"; do
        COMPREPLY+=("$(printf %q "${name#"$cut"}")")
    done
}

complete -F _spacejmp_names -o bashdefault -o default spacejmp
