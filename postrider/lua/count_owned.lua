-- Counts what is one owner's in a part of a list.
-- ARGV  1 list   2 owner   3 first rank   4 look at most at
-- Gives {how many were looked at, how many are the owner's}.
local owners, count = {}, 0
local ids = call('ZRANGE', ARGV[1], ARGV[3], ARGV[3] + ARGV[4] - 1)
for _, id in ipairs(ids) do
  local mid = split(id)
  if mid then
    if owners[mid] == nil then owners[mid] = call('HGET', 'pr:m:' .. mid, 'owner') end
    if owners[mid] == ARGV[2] then count = count + 1 end
  end
end
return { #ids, count }
