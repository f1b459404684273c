#!/bin/sh
# The own tests of a Rust crate, program after program, natively and in a VM: how many tests pass, and those
# whose outcome differs.
#
#   resources/suites/rust.sh SPACEJMP CRATE [OPTION...]
#
# CRATE is a crate's directory, outside of /tmp, with its tests; OPTIONs are those of `cargo test`, as
# `--features full,test-util` or `--test NAME`. The test programs are built natively.
set -eu
spacejmp=$(realpath "$1")
crate=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$crate"

outcomes() { grep -aoE '^test [^ ]+( - should panic)? \.\.\. (ok|FAILED)' "$1" | sort || true; }
passed() { outcomes "$1" | grep -c 'ok$' || true; }

cargo test --no-run "$@" 2>&1 | tee "$work/build" >&2
sed -nE 's/^ *Executable .*\((.*)\)$/\1/p' "$work/build" > "$work/programs"
while read -r program; do
    program=$(realpath "$program")
    rm -rf "$work/tmp"
    mkdir "$work/tmp"
    TMPDIR="$work/tmp" timeout -k 5 60 "$program" > "$work/native" 2>&1 < /dev/null || true
    rm -rf "$work/tmp"
    mkdir "$work/tmp"
    TMPDIR=/tmp timeout -k 5 200 "$spacejmp" run --no-store --timeout 180 --root / --dir "$crate" \
        --dir "$work/tmp:/tmp" --net --env '*' "$program" > "$work/vm" 2>&1 < /dev/null || true
    echo "$(basename "$program"): $(passed "$work/native") pass natively, $(passed "$work/vm") in a VM"
    outcomes "$work/native" > "$work/a"
    outcomes "$work/vm" > "$work/b"
    diff "$work/a" "$work/b" | grep '^[<>]' || true
done < "$work/programs"
