-- Tables, strings, closures and coroutines under several collector settings; prints sums.
local rounds = tonumber(arg[1])

local function work(seed)
  local table_of, list, sum = {}, {}, 0
  for i = 1, rounds do
    seed = (seed * 1103515245 + 12345) % 2147483648
    local word = ("%x-%s"):format(seed, ("ab"):rep(seed % 67))
    table_of[seed % 4099] = { word, i, { seed } }
    list[#list + 1] = word:gsub("ab", "c", 5)
    if #list > 5000 then
      table.sort(list)
      for _, text in ipairs(list) do
        for k = 1, #text, 7 do sum = (sum * 31 + text:byte(k)) % 1000000007 end
      end
      list = {}
    end
  end
  for key = 0, 4098 do
    local entry = table_of[key]
    if entry then sum = (sum * 33 + #entry[1] + entry[2] + entry[3][1]) % 1000000007 end
  end
  return sum
end

print(work(1))
collectgarbage("generational")
print(work(2))
collectgarbage("incremental", 110, 400)
local tasks = {}
for i = 1, 200 do
  tasks[i] = coroutine.wrap(function()
    local s = {}
    for k = 1, 50 do s[k] = ("%d:%d"):format(i, k):rep(k); coroutine.yield() end
    return #table.concat(s)
  end)
end
local total = 0
for _ = 1, 51 do
  for i = 1, 200 do total = total + (tasks[i]() or 0) end
end
print(total, work(3))
