-- Takes one of the few tries that an address, and an account, have within any `span` seconds. It is counted before the
-- password is looked at, so that a hundred at once get no more than one after another; one that was right is given back.
-- An account's tries are counted only from addresses where it has not come in lately: else who knows a name locks its
-- owner out.
-- ARGV  1 address   2 account, or '' for a key   3 name of this try   4 at most   5 span (s)
-- Gives {seconds to wait, or '' when it may be tried; 1 when this is the first one refused of this address's}.
local address, account, name = ARGV[1], ARGV[2], ARGV[3]
local most, span = tonumber(ARGV[4]), tonumber(ARGV[5])
local counted = { 'pr:tries:at ' .. address }
if account ~= '' and call('EXISTS', 'pr:tries:knows ' .. account .. ' ' .. address) == 0 then
  counted[2] = 'pr:tries:as ' .. account
end
local wait = 0
for _, key in ipairs(counted) do
  call('ZREMRANGEBYSCORE', key, '-inf', seconds(NOW - span))
  if call('ZCARD', key) >= most then
    local oldest = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    wait = math.max(wait, tonumber(oldest[2]) + span - NOW)
  end
end
if wait > 0 then
  local first = call('SET', 'pr:tries:told ' .. address, 1, 'NX', 'EX', span)
  return { seconds(wait), first and 1 or 0 }
end
for _, key in ipairs(counted) do
  call('ZADD', key, seconds(NOW), name)
  call('EXPIRE', key, span)
end
return { '', 0 }
