#!/bin/sh
# Moves money between 100 accounts, kills the program that does so again and again with SIGKILL, at
# random moments, and takes the sum all the time in another VM. Exit status 1 if any sum was wrong.
#
#   SPACEJMP  the command (or one in BIN)        BIN     the folder of the program `bank`
#   KILLS     how many times (100)               WITHIN  milliseconds until a kill, at most (300)
set -eu
folder=$(mktemp -d)    # for a store of its own
kills=${KILLS:-100} within=${WITHIN:-300} killed=0 reader='' mover=''
# From here on "$@" is `bank` in a VM of its own. The time-out ends one that hangs.
BIN=${BIN:-target/x86_64-unknown-linux-gnu/release}
command -v spacejmp > "$folder/which" || echo "$BIN/spacejmp" > "$folder/which"
set -- "${SPACEJMP:-$(cat "$folder/which")}" run --timeout 300 --store "$folder/store" "$BIN/bank"

fail() { printf '\nFAILED: %s\n' "$*" >&2; exit 1; }
clean_up() {
    [ -z "$mover" ] || kill -KILL "$mover" || true
    touch "$folder/enough"
    [ -z "$reader" ] || wait "$reader" || true
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

"$@" open 100 1000

# The reader: one VM after the other, 100 sums each. Nothing must go wrong.
until [ -e "$folder/enough" ]; do
    "$@" sum 100 || break
done > "$folder/sums" 2> "$folder/wrong" &
reader=$!

while [ "$killed" -lt "$kills" ]; do
    "$@" move 1000000 "$killed" 2> "$folder/mover" &
    mover=$!
    ms=$(($(od -An -N2 -tu2 /dev/urandom) % within))
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    kill -KILL "$mover" 2> /dev/null || true
    status=0
    wait "$mover" 2> /dev/null || status=$?
    mover=
    [ "$status" = 137 ] || fail "bank move ended by itself: $(cat "$folder/mover")"
    killed=$((killed + 1))
    printf '\r%-78s' "$killed killed; $(tail -n 1 "$folder/sums")"
    [ ! -s "$folder/wrong" ] || fail "$(cat "$folder/wrong")"
done
echo

touch "$folder/enough"
wait "$reader"
reader=
[ ! -s "$folder/wrong" ] || fail "$(cat "$folder/wrong")"
"$@" sum >> "$folder/sums"

# Each line: sum SUM in COUNT visits, versions seen: COUNT, from FIRST to LAST
awk -F '[^0-9]+' -v kills="$killed" -v right=100000 '
    $2 != right || $5 < last { print "FAILED: " $0; wrong++ }
    { sums += $3; versions += $4 - (NR > 1 && $5 == last); last = $6 }
    END {
        print kills " kills, " last " moves, " sums " sums in " versions " versions: " wrong + 0 " wrong"
        exit (wrong > 0)
    }' "$folder/sums"
