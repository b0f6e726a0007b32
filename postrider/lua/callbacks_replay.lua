-- Tries ended callbacks anew from the beginning, at once; an address that was turned off is turned on again.
-- ARGV  callbacks
-- Gives a 1 or 0 for each: it is tried anew, or it has not ended.
local replayed = {}
for _, id in ipairs(ARGV) do
  local key = 'pr:c:' .. id
  local url, host, owner, state = unpack(call('HMGET', key, 'url', 'host', 'owner', 'state'))
  local ended = state == 'dead' or state == 'done'
  if ended then
    call('ZREM', 'pr:cb:ended:' .. state, id)
    list(id, owner, state, 'ZREM')
    list(id, owner, 'waiting', 'ZADD')
    call('ZREM', 'pr:cb:off', url)
    call('HSET', key, 'state', 'waiting', 'tries', 0, 'since', seconds(NOW), 'at', seconds(NOW))
    call('ZADD', 'pr:cb:due:' .. host, seconds(NOW), id)
    set_due(host)
  end
  replayed[#replayed + 1] = ended and 1 or 0
end
return replayed
