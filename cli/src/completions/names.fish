
# Names of address spaces, segments and tags.
function __fish_spacejmp_names
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c spacejmp -n "__fish_seen_subcommand_from vas seg" -a "(__fish_spacejmp_names)"
complete -c spacejmp -n "__fish_seen_subcommand_from run" -l vas -x -a "(__fish_spacejmp_names)"
