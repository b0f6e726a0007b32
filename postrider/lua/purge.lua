-- Forgets deliveries that ended before a moment, the oldest first: record, attempts, RQ's job; and a message with its
-- last one.
-- ARGV  1 list of ended ones   2 ended before (s, or +inf)   3 at most
-- Gives how many were forgotten.
local ids = call('ZRANGE', ARGV[1], '-inf', '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[3]))
local left, jobs = {}, {}
prefetch(ids)
for _, id in ipairs(ids) do
  local mid, idx = split(id)
  local r = load(mid, idx)
  if r then
    local job_id = job_id_of(mid, idx, r.alarm)
    jobs[#jobs + 1] = 'rq:job:' .. job_id
    jobs[#jobs + 1] = 'rq:results:' .. job_id
    later('ZREM', 'rq:finished:' .. QUEUES[r.queue], job_id)
    later('ZREM', 'rq:failed:' .. QUEUES[r.queue], job_id)
    later('HDEL', bucket('d', mid, idx), idx)
    later('HDEL', bucket('a', mid, idx), idx)
    later('ZREM', recipients_bucket(r.uuid), id)
    if not r.counted then count('pr:m:' .. mid, 'n:' .. r.state, 1) end
    left[mid] = (left[mid] or 0) + 1
  end
end
if #ids > 0 then call('ZREM', ARGV[1], unpack(ids)) end
flush()
if #jobs > 0 then call('UNLINK', unpack(jobs)) end
for mid, n in pairs(left) do
  local message = 'pr:m:' .. mid
  if call('HINCRBY', message, 'left', -n) <= 0 then
    for _, list in ipairs(lists_of(message)) do call('ZREM', list, mid) end
    call('ZREM', 'pr:expiring', mid)
    release_files(call('HGET', message, 'file_ids') or '', mid)
    call('DEL', message, 'pr:z:' .. mid)
  end
end
return #ids
