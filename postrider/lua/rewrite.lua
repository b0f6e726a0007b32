-- Gives a message another text; what has gone, or is being sent, keeps the one it went with.
-- ARGV  1 message   2 the text
-- Gives what change.lua gives of states and numbers; nothing where none waits, and nothing is written then; `often` when it
-- has been changed too often since a part of it went.
local mid = ARGV[1]
local message = 'pr:m:' .. mid
local total, committed = unpack(call('HMGET', message, 'total', 'committed'))
if not committed then return {} end
local MAY = { s = true, r = true, p = true }
local changed, unchanged = {}, { '' }
for state, n in pairs(counts_of(mid, tonumber(total))) do
  local to = MAY[state] and changed or unchanged
  to[#to + 1] = state
  to[#to + 1] = n
end
if #changed > 0 then
  if #unchanged > 1 and not keep_as_it_was(mid, true) then return 'often' end
  call('HSET', message, 'body', ARGV[2])
end
for _, told in ipairs(unchanged) do changed[#changed + 1] = told end
return changed
