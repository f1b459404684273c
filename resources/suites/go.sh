#!/bin/sh
# The Go standard library's own tests, package by package, natively and in a VM: how many tests pass, and
# those whose outcome differs.
#
#   resources/suites/go.sh SPACEJMP [PACKAGE...]
#
# Needs `go` and the source of its library (Debian: golang-go), and /usr/share/zoneinfo. The test programs are
# built natively and run in short mode, with all of the host's tree to read and a folder to write.
set -eu
spacejmp=$1
shift
[ $# -gt 0 ] || set -- os time net sync runtime net/http
root=$(go env GOROOT)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tmp" "$work/go/lib/time"
# The tests of `time` read the zones of Go's own tree, which Debian leaves out.
for entry in "$root"/*; do ln -s "$entry" "$work/go/"; done
(cd /usr/share/zoneinfo && python3 -c '
import os, sys, zipfile
zones = zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_STORED)
for folder, _, files in os.walk("."):
    for name in files:
        zones.write(os.path.join(folder, name)[2:])
' "$work/go/lib/time/zoneinfo.zip")
export GOROOT="$work/go" GOCACHE="$work/cache"

outcomes() { grep -aoE '^ *--- (PASS|FAIL|SKIP): [^ ]+' "$1" | sed 's/^ *--- //' | sort || true; }
passed() { outcomes "$1" | grep -c '^PASS' || true; }

echo "$(go version)"
for package in "$@"; do
    name=$(echo "$package" | tr / _)
    GOROOT="$root" go test -c -o "$work/$name.test" "$package"
    cd "$root/src/$package"
    TMPDIR="$work/tmp" timeout 600 "$work/$name.test" -test.short -test.v > "$work/$name.native" 2>&1 < /dev/null || true
    timeout 900 "$spacejmp" run --no-store --root / --dir "$work" --dir "$work/tmp:/tmp" --net --env '*' \
        "$work/$name.test" -test.short -test.v > "$work/$name.vm" 2>&1 < /dev/null || true
    echo "$package: $(passed "$work/$name.native") pass natively, $(passed "$work/$name.vm") in a VM"
    outcomes "$work/$name.native" > "$work/a"
    outcomes "$work/$name.vm" > "$work/b"
    diff "$work/a" "$work/b" | grep '^[<>]' || true
done
