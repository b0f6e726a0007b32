-- Finds messages whose acceptance stopped half way, and removes a part of what was never committed.
-- ARGV  1 at most so many messages   2 remove at most so many deliveries   3 leave a committed one alone so long (s)
-- Gives two lists: per committed one its message, first index not armed, total, due, for the caller to arm; the others of which
-- something is left.
local forward, left, most = {}, {}, tonumber(ARGV[2])
for _, mid in ipairs(call('ZRANGE', 'pr:accepting', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))) do
  local message = 'pr:m:' .. mid
  local committed, armed, total, due, quota, written =
    unpack(call('HMGET', message, 'committed', 'armed', 'total', 'due', 'quota', 'written'))
  if committed then
    forward[#forward + 1] = { mid, armed or '0', total, due }
    call('ZADD', 'pr:accepting', seconds(NOW + tonumber(ARGV[3])), mid)
  elseif not total then
    call('ZREM', 'pr:accepting', mid)
  else
    local last = tonumber(written or total)
    local first = math.max(0, last - most)
    most = most - (last - first)
    for idx = first, last - 1 do
      local r = load(mid, idx)
      if r then later('ZREM', recipients_bucket(r.uuid), delivery_id(mid, idx)) end
      call('DEL', 'rq:job:' .. delivery_id(mid, idx))
      call('HDEL', bucket('d', mid, idx), idx)
      call('HDEL', bucket('w', mid, idx), idx)
    end
    if first > 0 then
      call('HSET', message, 'written', first)
      left[#left + 1] = mid
    else
      if quota then uncount(mid, tonumber(total)) end
      call('DEL', message, 'pr:z:' .. mid)
    end
  end
end
flush()
return { forward, left }
