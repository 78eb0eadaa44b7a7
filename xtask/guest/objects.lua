-- Strings, tables and coroutines: what lua allocates. Prints sums that follow from the numbers.
local words, sum = {}, 0
for i = 1, 200000 do
    words[i] = ("word %d"):format(i * 7919 % 100003)
    if i % 3 == 0 then words[i - 1] = nil end
end
for _, word in pairs(words) do sum = sum + #word end
print("words", sum)
local function permute(list, n)
    if n == 0 then coroutine.yield(table.concat(list)) end
    for i = 1, n do
        list[n], list[i] = list[i], list[n]
        permute(list, n - 1)
        list[n], list[i] = list[i], list[n]
    end
end
local count, first = 0, nil
for text in coroutine.wrap(function() permute({ "a", "b", "c", "d", "e", "f", "g", "h" }, 8) end) do
    count, first = count + 1, first or text
end
print("permutations", count, first)
local text = string.rep("rsalloc ", 100000)
print("text", #text:upper():gsub("LL", "l"), select(2, text:gsub("a", "")))
collectgarbage()
local tree = nil
for depth = 1, 100000 do tree = { depth, tree } end
local length = 0
while tree do length, tree = length + 1, tree[2] end
print("chain", length)
