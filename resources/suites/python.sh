#!/bin/sh
# CPython's own tests, module by module, natively and in a VM: one line each with both outcomes.
#
#   resources/suites/python.sh SPACEJMP PYTHON [MODULE...] > python.tsv
#
# PYTHON is an interpreter whose library contains `test` (Debian: libpython3-testsuite). An outcome is `ok`,
# `skipped`, `failed` or `timeout` (60 seconds natively, 180 in a VM).
set -u
spacejmp=$1
python=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/tmp"
[ $# -gt 0 ] || set -- $("$python" -m test --list-tests)

outcome() {
    case $1 in
    0 | 4) if grep -q "skipped:$\|skipped$\|test skipped" "$2" && ! grep -q "test OK\|tests OK" "$2"; then echo skipped; else echo ok; fi ;;
    124) echo timeout ;;
    *) echo failed ;;
    esac
}

cd "$work/tmp" || exit 1
for module in "$@"; do
    timeout -k 5 60 "$python" -m test "$module" > "$work/native" 2>&1 < /dev/null
    native=$(outcome $? "$work/native")
    timeout -k 5 200 "$spacejmp" run --no-store --timeout 180 --root / --dir "$work/tmp:/tmp" --dir "$work/tmp" \
        --net --env '*' "$python" -m test "$module" > "$work/vm" 2>&1 < /dev/null
    vm=$(outcome $? "$work/vm")
    printf '%s\t%s\t%s\n' "$module" "$native" "$vm"
    [ "$native" = "$vm" ] || [ -z "${LOGS:-}" ] || cp "$work/vm" "$LOGS/$module"
done
