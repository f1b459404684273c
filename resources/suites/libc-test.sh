#!/bin/sh
# musl's libc-test, one program after the other, natively and in a VM: one line each with both statuses.
#
#   resources/suites/libc-test.sh SPACEJMP LIBC_TEST [PROGRAM...] > libc-test.tsv
#
# LIBC_TEST is a directory in which it was built with musl (`make CC=musl-gcc`). 0 is a pass; a program is
# not run in a VM that does not pass natively.
set -u
spacejmp=$1
suite=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$suite" || exit 1
[ $# -gt 0 ] || set -- src/functional/*.exe src/math/*.exe src/musl/*.exe src/regression/*.exe
for program in "$@"; do
    rm -rf "$work/tmp"
    mkdir "$work/tmp"
    timeout -k 5 60 "$suite/$program" > "$work/native" 2>&1 < /dev/null
    native=$?
    vm=-
    if [ $native -eq 0 ]; then
        timeout -k 5 90 "$spacejmp" run --no-store --timeout 80 --root / --dir "$work/tmp:/tmp" --dir "$suite" \
            --net --env '*' "$suite/$program" > "$work/vm" 2>&1 < /dev/null
        vm=$?
    fi
    printf '%s\t%s\t%s\n' "$program" $native $vm
    [ "$native" = "$vm" ] || [ $vm = - ] || [ -z "${LOGS:-}" ] || cp "$work/vm" "$LOGS/$(basename "$program")"
done
