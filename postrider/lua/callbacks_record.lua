-- Records how tries ended. One whose claim has gone to another courier changes nothing, except that a yes ends it.
-- ARGV  per try: callback, the word of its claim, state it comes to, wait (s), answer (JSON), 1 if anybody answered,
--       1 if its address is to be turned off
-- Gives a 1 or 0 per try: recorded, or came too late.
local recorded = {}
for i = 1, #ARGV, 7 do
  local id, claim, state, wait, answer, answered, off = unpack(ARGV, i, i + 6)
  local key = 'pr:c:' .. id
  local url, host, owner, now_in, claimed = unpack(call('HMGET', key, 'url', 'host', 'owner', 'state', 'claim'))
  local ours = now_in == 'waiting' and (claimed == claim or state == 'done')
  if ours then
    if answered == '1' then
      call('HDEL', 'pr:cb:fails', host)
    else
      call('HINCRBY', 'pr:cb:fails', host, 1)
    end
    if off == '1' then call('ZADD', 'pr:cb:off', seconds(NOW), url) end
    call('HINCRBY', key, 'tries', 1)
    if state == 'waiting' then
      local at = seconds(NOW + tonumber(wait))
      call('HSET', key, 'at', at, 'answer', answer)
      call('HDEL', key, 'claim')
      call('ZADD', 'pr:cb:due:' .. host, at, id)
    else
      finish(id, host, owner, state, answer)
    end
    set_due(host)
  end
  recorded[#recorded + 1] = ours and 1 or 0
end
return recorded
