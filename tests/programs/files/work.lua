local words, sum = {}, 0
for line in io.lines("words.txt") do
  local word, number = line:match("(%a+) (%d+)")
  words[#words + 1] = word; sum = sum + number
end
table.sort(words)
print(sum, table.concat(words, ","))
print(string.format("%.6f %s", math.pi, string.rep("ab", 3)))
local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end end)
print(co(), co(), co())
