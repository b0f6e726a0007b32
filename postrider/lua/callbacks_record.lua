-- Records how tries ended. One whose claim has gone to another courier changes nothing, except that a yes ends it.
-- ARGV  1 a host that does not answer is left alone this long at most (s)   then per try: callback, the word of its claim, state it comes to, wait (s), answer (JSON), 1 if anybody answered,
--       1 if its address is to be turned off
-- Gives a 1 or 0 per try: recorded, or came too late.
local recorded, longest = {}, tonumber(ARGV[1])

local function leave_alone(host)
  local fails = tonumber(string.match(call('HGET', 'pr:cb:fails', host) or '', '^%d+') or 0) + 1
  local until_at = NOW + math.min(longest, 0.05 * math.pow(2, math.min(fails, 30)))
  call('HSET', 'pr:cb:fails', host, fails .. ' ' .. seconds(until_at))
end

for i = 2, #ARGV, 7 do
  local id, claim, state, wait, answer, answered, off = unpack(ARGV, i, i + 6)
  local key = 'pr:c:' .. id
  local url, host, owner, now_in, claimed = unpack(call('HMGET', key, 'url', 'host', 'owner', 'state', 'claim'))
  local ours = now_in == 'waiting' and (claimed == claim or state == 'done')
  if ours then
    if answered == '1' then
      call('HDEL', 'pr:cb:fails', host)
    else
      leave_alone(host)
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
