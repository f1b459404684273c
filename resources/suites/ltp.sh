#!/bin/sh
# LTP's system-call tests, one by one, natively and in a VM: one line each with both statuses.
#
#   resources/suites/ltp.sh SPACEJMP LTP [TEST...] > ltp.tsv
#
# LTP is where it was installed (`make install`): testcases/bin, runtest/syscalls. Tests that need root skip
# themselves for anyone else. As root some change the machine: run this as a user who has nothing to lose
# and may open /dev/kvm. 0 is a pass; a test is not run in a VM that does not pass natively.
set -u
spacejmp=$1
ltp=$(realpath "$2")
shift 2
work=$(mktemp -d -p "${WORK:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/tmp"
export PATH="$ltp/testcases/bin:$PATH" LTPROOT="$ltp" LTP_COLORIZE_OUTPUT=0 LTP_RUNTIME_MUL=0.1
# Tests ask for the host's kernel options, natively in /proc.
gzip -dc /proc/config.gz > "$work/config" 2> /dev/null && export KCONFIG_PATH="$work/config"

fresh() {
    rm -rf "$work/tmp"
    mkdir "$work/tmp"
}

while read -r name command; do
    case $name in '' | '#'*) continue ;; esac
    [ $# -eq 0 ] || case " $* " in *" $name "*) ;; *) continue ;; esac
    fresh
    (cd "$work/tmp" && TMPDIR="$work/tmp" timeout -k 5 30 sh -c "exec $command") > "$work/native" 2>&1 < /dev/null
    native=$?
    vm=-
    if [ $native -eq 0 ]; then
        fresh
        (cd "$work" && TMPDIR=/tmp LTP_TIMEOUT_MUL=2 timeout -k 5 80 "$spacejmp" run --no-store --timeout 70 \
            --root / --dir "$ltp" --dir "$work" --dir "$work/tmp:/tmp" --net --env '*' /bin/sh -c "exec $command") \
            > "$work/vm" 2>&1 < /dev/null
        vm=$?
    fi
    printf '%s\t%s\t%s\n' "$name" $native $vm
    [ "$native" = "$vm" ] || [ $vm = - ] || [ -z "${LOGS:-}" ] || cp "$work/vm" "$LOGS/$name"
done < "$ltp/runtest/syscalls"
