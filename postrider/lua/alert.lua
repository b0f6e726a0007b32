-- What operators are to be told. ARGV  1 what to do, then
--   raise   2 kind and key   3 text   4 seconds for which the same is not told again   5 how many places   6 how many
--           wait at most   7 1 if it lasts until it is over. Gives 1 when it is told.
--   over    the same; told only where that it began was told
--   take    2 at most   3 shortest, 4 longest wait until the same is given again (s): doubles with its age
--           Gives {now, entries}.
local entries = 'pr:alerts'

if ARGV[1] == 'take' then
  local due = call('ZRANGE', entries, '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]))
  for _, entry in ipairs(due) do
    local age = NOW - tonumber(string.match(entry, '^%d+ (%S+)'))
    local wait = math.min(math.max(age, tonumber(ARGV[3])), tonumber(ARGV[4]))
    call('ZADD', entries, seconds(NOW + wait), entry)
  end
  return { seconds(NOW), due }
end

local name, text, again_s, places, most = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if ARGV[1] == 'raise' then
  if not call('SET', 'pr:alert:' .. name, 1, 'NX', 'EX', again_s) then return 0 end
  if ARGV[7] == '1' then call('SADD', 'pr:alert:lasting', name) end
elseif call('SREM', 'pr:alert:lasting', name) == 0 then
  return 0
end
for place = 0, places - 1 do
  call('ZADD', entries, seconds(NOW), place .. ' ' .. seconds(NOW) .. ' ' .. text)
end
call('ZREMRANGEBYRANK', entries, 0, -most - 1)
return 1
