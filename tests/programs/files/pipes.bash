set -o pipefail
mapfile -t lines < <(sort words.txt)
echo "${#lines[@]} ${lines[0]}"
declare -A numbers
while read -r word number; do numbers[$word]=$number; done < words.txt
echo "${numbers[fig]} $((numbers[fig] * 2)) ${lines[@]:2:2}"
false | true; echo "${PIPESTATUS[*]}"
diff <(head -3 words.txt) <(head -4 words.txt)
tr a-z A-Z <<< "a here-string"
cat <<'END'
$not expanded
END
coproc cat; echo through >&"${COPROC[1]}"; read -r -u "${COPROC[0]}" line; echo "$line"
kill $COPROC_PID; wait 2> /dev/null; echo $?
