-- Moves what is due from rq-scheduler's set to RQ's queues, and claims up to `most` of it under a lease.
-- ARGV  1 worker   2 most   3 lease (s)   4 how many due ones to look at   5 how many claims it still works on
-- Gives {now, next due or '', dropped, rows, messages}. What is claimed at once never touches a queue.
-- Of every ten picks high gets 6, default 3, low 1, so that low never starves; what one leaves, the next takes.
local worker, most, lease_until = ARGV[1], tonumber(ARGV[2]), NOW + tonumber(ARGV[3])
local TURNS = { 'h', 'h', 'd', 'h', 'h', 'd', 'h', 'd', 'h', 'l' }
local ORDER = { 'h', 'd', 'l' }
local dropped = 0

-- First a write that a full Redis refuses: what cannot be recorded must not be claimed.
local turn = tonumber(call('GET', 'pr:turn') or 0)
call('SET', 'pr:turn', turn)

local due = call('ZRANGE', SCHEDULE, '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[4]))
if #due > 0 then call('ZREM', SCHEDULE, unpack(due)) end
local fresh = { h = {}, d = {}, l = {} }
for _, job_id in ipairs(due) do
  local mid, idx = split(job_id)
  local r = mid and load(mid, idx)
  if r then
    table.insert(fresh[r.queue], job_id)
  else
    call('DEL', 'rq:job:' .. job_id)
    dropped = dropped + 1
  end
end

local queued, popped, next_fresh = {}, {}, { h = 1, d = 1, l = 1 }
for q, name in pairs(QUEUES) do queued[q] = call('LLEN', 'rq:queue:' .. name) end

local function pick(q)
  if queued[q] > 0 then
    queued[q] = queued[q] - 1
    return call('LPOP', 'rq:queue:' .. QUEUES[q])
  end
  local job_id = fresh[q][next_fresh[q]]
  if job_id then next_fresh[q] = next_fresh[q] + 1 end
  return job_id
end

local rows, mids = {}, {}
local running = {}
while #rows < most and #rows + dropped < tonumber(ARGV[4]) do
  turn = turn % #TURNS + 1
  local job_id = pick(TURNS[turn])
  for _, q in ipairs(ORDER) do job_id = job_id or pick(q) end
  if not job_id then break end
  local row, mid = take(job_id, lease_until)
  if row then
    rows[#rows + 1] = row
    mids[mid] = true
    running[row[7]] = running[row[7]] or {}
    -- RQ's own cleaning must never find it lapsed: ending a lease is the sweep's business.
    table.insert(running[row[7]], seconds(lease_until + 86400))
    table.insert(running[row[7]], job_id .. ':' .. worker)
  else
    dropped = dropped + 1
  end
end

local stamp = rq_time(NOW)
for queue, entries in pairs(running) do call('ZADD', 'rq:wip:' .. queue, unpack(entries)) end
for _, row in ipairs(rows) do
  call('HSET', 'rq:job:' .. row[1], 'status', 'started', 'started_at', stamp, 'worker_name', worker)
end
if #rows > 0 then call('SET', 'pr:turn', turn) end
local key = 'rq:worker:' .. worker
if call('EXISTS', key) == 1 then
  call('HSET', key, 'state', #rows + tonumber(ARGV[5]) > 0 and 'busy' or 'idle')
  if #rows > 0 then call('HSET', key, 'current_job', rows[#rows][1]) end
  if #rows + tonumber(ARGV[5]) == 0 then call('HDEL', key, 'current_job') end
end

local left = false
for q, name in pairs(QUEUES) do
  local rest = {}
  for i = next_fresh[q], #fresh[q] do
    rest[#rest + 1] = fresh[q][i]
    call('HSET', 'rq:job:' .. fresh[q][i], 'status', 'queued', 'enqueued_at', stamp)
  end
  if #rest > 0 then call('RPUSH', 'rq:queue:' .. name, unpack(rest)) end
  left = left or #rest > 0 or queued[q] > 0
end
local next_due = call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')[2] or ''
if left then next_due = seconds(NOW) end
return { seconds(NOW), next_due, dropped, rows, messages(mids) }
