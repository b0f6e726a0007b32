-- Counts what has not ended: all of it by the lengths of the lists; of a span of time a part of it, one by one.
-- ARGV  1, 2 messages from, to: ids, '' for no bound   3, 4 which list, and where in it: 0, 0 at first   5 about so many
-- Gives {waiting, unknown} or, when there is more, {waiting, unknown, list, where}.
local lists = { LISTS.s, LISTS.r, LISTS.p, 'pr:leases', LISTS.u, HELD }
local UNKNOWN = 5 -- from here on
local low, high, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local counts = { 0, 0 }
if low == '' and high == '' then
  for i, list in ipairs(lists) do
    local which = i < UNKNOWN and 1 or 2
    counts[which] = counts[which] + call('ZCARD', list)
  end
  return counts
end
if n == 0 then n = 1 end
local found = call('ZSCAN', lists[n], ARGV[4], 'COUNT', tonumber(ARGV[5]))
for i = 1, #found[2], 2 do
  local mid = split(found[2][i])
  if mid and not (low ~= '' and is_after(low, mid)) and (high == '' or is_after(high, mid)) then
    local which = n < UNKNOWN and 1 or 2
    counts[which] = counts[which] + 1
  end
end
if found[1] ~= '0' then
  counts[3], counts[4] = n, found[1]
elseif n < #lists then
  counts[3], counts[4] = n + 1, '0'
end
return counts
