-- What may be sent and when: deliveries are armed, disarmed and taken, and those for one recipient wait for each other.

local function write_job(job_id, queue, status, stamp)
  call('HSET', 'rq:job:' .. job_id, 'data', payload(job_id), 'created_at', stamp, 'origin', queue, 'status', status,
    'description', 'deliver')
end

-- The delivery that `job_id` would send now: message, index, record; nil when it is unknown, ended, claimed, or this is an
-- older alarm, whose job is then removed.
local function sendable(job_id)
  local mid, idx, alarm = split(job_id)
  local r = mid and load(mid, idx)
  if r and r.alarm == alarm and WAITS[r.state] then return mid, idx, r end
  -- A second listing of what is being sent right now keeps its job: RQ's tools show it as running.
  if not (r and r.alarm == alarm and r.state == 'g') then call('DEL', 'rq:job:' .. job_id) end
  return nil
end

local function turn_key(r) return 'pr:to:' .. r.account .. ' ' .. r.uuid end
local function turns_key(r) return 'pr:turns:' .. r.account .. ' ' .. r.uuid end

-- Has `job_id`, whose delivery goes on waiting as it does, looked at again at that time (s).
local function look_again(job_id, mid, idx, r, at)
  call('ZADD', SCHEDULE, seconds(at), job_id)
  call('ZADD', LISTS[r.state], seconds(at), delivery_id(mid, idx))
  call('HSET', 'rq:job:' .. job_id, 'status', 'scheduled')
end

local function in_ms(span_s) return math.max(1, math.min(math.ceil(span_s * 1000), 1e12)) end

-- Of those that wait for a recipient that gets one at a time, the first is armed for when that is. Whoever goes, or waits no
-- longer, calls the next. Each of them bears the mark `+`.
local function call_next(r)
  local turns, key = turns_key(r), turn_key(r)
  local at = math.max(NOW, tonumber(call('GET', key) or 0) or 0)
  while true do
    local job_id = call('ZRANGE', turns, 0, 0)[1]
    if not job_id then return call('PEXPIRE', key, in_ms(at - NOW)) end
    local mid, idx, first = sendable(job_id)
    if first then return look_again(job_id, mid, idx, first, at) end
    call('ZREM', turns, job_id)
  end
end

local function leave_turns(job_id, r)
  if not r.turn then return end
  r.turn = false
  local was_first = call('ZRANGE', turns_key(r), 0, 0)[1] == job_id
  call('ZREM', turns_key(r), job_id)
  if was_first then call_next(r) end
end

-- Takes delivery `r` off every list that could send it.
local function disarm(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  leave_turns(job_id, r)
  call('ZREM', SCHEDULE, job_id)
  call('ZREM', 'pr:leases', job_id)
  if LISTS[r.state] then call('ZREM', LISTS[r.state], delivery_id(mid, idx)) end
  if r.state == 'u' then
    -- A receipt or a late yes may settle it wherever it waits for its resend; who finds it there would drop its RQ job.
    call('ZREM', HELD, delivery_id(mid, idx))
    call('ZREM', 'pr:line:' .. r.queue .. ' ' .. r.account, job_id)
    call('ZREM', 'pr:alone', job_id)
    call('ZREM', 'pr:stopped:' .. (call('HGET', 'pr:m:' .. mid, 'owner') or ''), job_id)
  elseif r.deaths then call('ZREM', 'pr:alone', job_id) end
  return job_id
end

-- Moves delivery `r` to `state` and arms it for `due` with the next alarm; the job of the alarm before counts for nothing
-- from here on.
local function rearm(mid, idx, r, state, due)
  disarm(mid, idx, r)
  moves(mid, r, state)
  r.alarm = r.alarm + 1
  save(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  write_job(job_id, QUEUES[r.queue], 'scheduled', rq_time(NOW, true))
  call('ZADD', SCHEDULE, seconds(due), job_id)
  call('ZADD', LISTS[state], seconds(due), delivery_id(mid, idx))
end

local somebody_moved, somebody_suppressed = nil, nil

-- What the sender of delivery `r` has to know of it. `how` is `probe`, `alone` or ''; `suppressed`, whatever it was, where
-- its address takes nothing. `held`: when it, or what shares its account, was last kept waiting by a rate or a pause (s),
-- or ''.
local function row(job_id, r, how, held)
  if somebody_moved == nil then
    somebody_moved = call('EXISTS', 'pr:moved') == 1
    somebody_suppressed = call('EXISTS', 'pr:suppressed') == 1
  end
  if somebody_suppressed and call('HEXISTS', 'pr:suppressed', address(r.account, r.uuid)) == 1 then how = 'suppressed' end
  local to = somebody_moved and call('HGET', 'pr:moved', r.account .. ' ' .. r.uuid) or r.uuid
  return { job_id, r.attempts, r.account, r.uuid, to, how, r.deaths or '', held or '' }
end

-- Moves waiting delivery `r` to `sending` under a lease until then (s, as text). Gives its row.
local function take(job_id, mid, idx, r, lease_until, how, held)
  if r.turn then held = seconds(NOW) end
  later('ZREM', LISTS[r.state], delivery_id(mid, idx))
  moves(mid, r, 'g')
  r.turn, r.paid = false, false
  later('HSET', bucket('d', mid, idx), idx, as_text(r))
  later('ZADD', 'pr:leases', lease_until, job_id)
  return row(job_id, r, how, held)
end

-- What the sender of these rows has to know of their messages: id, then its fields, per distinct message.
local function messages(mids)
  local out = {}
  for mid in pairs(mids) do
    out[#out + 1] = mid
    out[#out + 1] = call('HMGET', 'pr:m:' .. mid, 'body', 'accepted', 'due', 'timed', 'total', 'template', 'more',
      'owner', 'files', 'partial')
  end
  return out
end
