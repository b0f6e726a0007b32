-- Addresses that nothing is sent to.

-- How an address stands among the suppressed: a number is the same with its plus and without.
local function address(account, uuid)
  return string.match(account, '^[^/]+') .. ' ' .. (string.match(uuid, '^%+(%d+)$') or uuid)
end

-- From here on nothing is sent to this address. `why`: `o` it opted out, `d` it is dead, `m` somebody said so by hand.
local function suppress(addressed, why, reason)
  call('HSET', 'pr:suppressed', addressed, why .. ' ' .. seconds(NOW) .. ' ' .. reason)
  call('ZADD', 'pr:suppressed:order', 0, addressed)
end

-- The same for one that its messenger calls dead; what is known of it already stands.
local function bury(account, uuid, reason)
  local addressed = address(account, uuid)
  if call('HEXISTS', 'pr:suppressed', addressed) == 0 then suppress(addressed, 'd', reason) end
end
