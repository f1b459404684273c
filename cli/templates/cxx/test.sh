#!/bin/sh
# What `make test` runs. The part in a VM needs /dev/kvm and spacejmp, in PATH or where SPACEJMP
# says. Without them it tests nothing, and says so.
set -eu
spacejmp=${SPACEJMP:-spacejmp}
fail() { echo "FAILED: $*" >&2; exit 1; }

if out=$(./{{name}} 2>&1); then fail "it ran outside a VM: $out"; fi
case $out in *"spacejmp run"*) ;; *) fail "it does not say how to run it: $out" ;; esac
echo "outside a VM it says how to run it: ok"

command -v "$spacejmp" > /dev/null || { echo "SKIPPED: cannot find $spacejmp; set SPACEJMP" >&2; exit 0; }
[ -r /dev/kvm ] || { echo "SKIPPED: cannot open /dev/kvm" >&2; exit 0; }
rm -rf test-store
run() { "$spacejmp" run --timeout 60 --store test-store ./{{name}} "$@"; }
[ "$(run one two)" = "2 texts
1 x one
1 x two" ] || fail "what was given is not there"
[ "$(run one three)" = "3 texts
2 x one
1 x two
1 x three" ] || fail "what was given before is not there"
rm -rf test-store
echo "texts stay: ok"
