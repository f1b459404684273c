#!/bin/sh
# CPython's own tests, module by module, natively and in a VM: one line each with both outcomes.
#
#   resources/suites/python.sh SPACEJMP PYTHON [MODULE...] > python.tsv
#
# PYTHON is an interpreter whose library contains `test` (Debian: libpython3-testsuite). An outcome is `ok`,
# `skipped`, `failed` or `timeout` (NATIVE seconds natively, 90 by default; VM seconds in a VM, 180 by
# default). Some tests write beside the library, so they get a copy of it in a VM, and empty folders
# for other packages. A module that does
# not pass natively is not run there.
set -u
export PYTHONNOUSERSITE=1
# Tests that are left out, as options: IGNORED='-i *VSOCK*' where the host waits for ever for such a socket.
IGNORED=${IGNORED:-}
spacejmp=$1
python=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/tmp"
library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
cp -a "$library" "$work/library"
grants="--dir $work/library:$library"
for path in $("$python" -c 'import sys; print(*sys.path[1:])'); do
    case $path in "$library"*) continue ;; esac
    [ -d "$path" ] || continue
    mkdir -p "$work/others$path"
    grants="$grants --dir $work/others$path:$path"
done
native_limit=${NATIVE:-90}
vm_limit=${VM:-180}
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
    timeout -k 5 "$native_limit" "$python" -m test -v $IGNORED "$module" > "$work/native" 2>&1 < /dev/null
    native=$(outcome $? "$work/native")
    vm=-
    if [ "$native" = ok ]; then
        timeout -k 5 $((vm_limit + 20)) "$spacejmp" run --no-store --timeout "$vm_limit" --root / \
            $grants --dir "$work/tmp:/tmp" --dir "$work/tmp" --net --env '*' \
            "$python" -m test -v $IGNORED "$module" > "$work/vm" 2>&1 < /dev/null
        vm=$(outcome $? "$work/vm")
    fi
    printf '%s\t%s\t%s\n' "$module" "$native" "$vm"
    [ "$native" = "$vm" ] || [ $vm = - ] || [ -z "${LOGS:-}" ] || cp "$work/vm" "$LOGS/$module"
done
