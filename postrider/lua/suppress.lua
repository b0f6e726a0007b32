-- Puts addresses on the list of those that nothing is sent to, or takes them off.
-- ARGV  per address: service, uuid, why (letter) or '' to take it off, reason
-- Gives a 1 or 0 per address: whether it is new there, or was there.
local gives = {}
for at = 1, #ARGV, 4 do
  local service, uuid, why, reason = unpack(ARGV, at, at + 3)
  local addressed = address(service, uuid)
  if why == '' then
    gives[#gives + 1] = call('HDEL', 'pr:suppressed', addressed)
    call('ZREM', 'pr:suppressed:order', addressed)
  else
    gives[#gives + 1] = 1 - call('HEXISTS', 'pr:suppressed', addressed)
    suppress(addressed, why, reason)
  end
end
return gives
