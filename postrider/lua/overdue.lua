-- Finds claims whose lease ran out: their worker died, or hangs.
-- ARGV  1 at most   2 seconds for which no other sweep is given the same ones
--       3 seconds without a sweep that mean Redis was away: live workers could not renew   4 the time they then get to
-- Gives {now, rows, messages}.
local last = tonumber(call('GET', 'pr:swept') or 0)
call('SET', 'pr:swept', seconds(NOW))
if NOW - last > tonumber(ARGV[3]) then call('SET', 'pr:patience', seconds(NOW + tonumber(ARGV[4]))) end
if NOW < tonumber(call('GET', 'pr:patience') or 0) then return { seconds(NOW), {}, {} } end

local rows, mids = {}, {}
for _, job_id in ipairs(call('ZRANGE', 'pr:leases', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))) do
  local mid, idx, alarm = split(job_id)
  local r = mid and load(mid, idx)
  if r and r.state == 'g' and r.alarm == alarm then
    call('ZADD', 'pr:leases', seconds(NOW + tonumber(ARGV[2])), job_id)
    local worker = call('HGET', 'rq:job:' .. job_id, 'worker_name') or ''
    call('ZREM', 'rq:wip:' .. QUEUES[r.queue], job_id .. ':' .. worker)
    rows[#rows + 1] = row(job_id, r, r.deaths and 'alone' or '')
    mids[mid] = true
  else
    call('ZREM', 'pr:leases', job_id)
  end
end
return { seconds(NOW), rows, messages(mids) }
