set -eu
sort -k 2 -n words.txt | tail -3 | while read -r word number; do echo "$word=$number"; done
cat <<END | tr a-z A-Z
here is $(wc -l < words.txt | tr -d ' ') lines
END
(cd tree && find . -type f | sort | xargs cat)
for name in words.txt numbers.txt; do cksum < "$name"; done
f() { echo "in a function: $1"; return 4; }
f x || echo "status $?"
sleep 0.05 & wait $! && echo waited
trap 'echo leaving' EXIT
exit 3
