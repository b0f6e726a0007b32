-- Changes deliveries that have not gone: stops, pauses, resumes or moves them, lets them expire, or sends ended ones again.
-- Either some by id, or a whole message in parts: the first part leaves a note of what goes on, which the sweep ends when
-- the caller died; the last one takes it away.
-- ARGV  1 what: cancel, pause, resume, move, expire, retry   2 due (s), or '' to leave it   3 message, or ''
--       4 with a message: the first index of this part, else the deliveries' ids from here on   5 how many at most
-- Gives {total, next index or '', then state letter and count of what was changed, '', then the same of what was not}.
local what, due, mid = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local WAITING = { s = true, r = true, u = true, p = true }
local MAY = {
  cancel = WAITING,
  expire = WAITING,
  pause = { s = true, r = true },
  resume = { p = true },
  move = { s = true, r = true, p = true },
  retry = { f = true, c = true, x = true, z = true, u = true },
}
local STOPPED = { cancel = 'c', expire = 'x', pause = 'p' }

local changed, unchanged, total = {}, {}, 0
local woken = nil

local function arm(id_mid, idx, r, state, at)
  rearm(id_mid, idx, r, state, at)
  woken = math.min(woken or at, at)
end

-- When one is due that is not armed yet.
local function unarmed_due(id_mid, idx)
  return call('HGET', bucket('w', id_mid, idx), idx) or call('HGET', 'pr:m:' .. id_mid, 'due')
end

local jobs = {} -- of those that are stopped

local function stop(id_mid, idx, r, state)
  local id = delivery_id(id_mid, idx)
  -- A message that is still being armed: its own.
  local due_at = state == 'p' and (call('ZSCORE', LISTS[r.state], id) or unarmed_due(id_mid, idx))
  local job_id = job_id_of(id_mid, idx, r.alarm)
  if r.state == 'u' then
    disarm(id_mid, idx, r)
    call('ZREM', 'rq:failed:' .. QUEUES[r.queue], job_id)
  else
    leave_turns(job_id, r)
    later('ZREM', SCHEDULE, job_id)
    later('ZREM', LISTS[r.state], id)
    later('ZREM', 'pr:line:' .. r.queue .. ' ' .. r.account, job_id)
    if r.deaths then later('ZREM', 'pr:alone', job_id) end
  end
  jobs[#jobs + 1] = 'rq:job:' .. job_id
  moves(id_mid, r, state)
  r.deaths, r.paid = nil, false
  -- Whoever still holds the job of this alarm, in a queue or a stock worker, comes late.
  r.alarm = r.alarm + 1
  later('HSET', bucket('d', id_mid, idx), idx, as_text(r))
  later('ZADD', LISTS[state], due_at or seconds(NOW), id)
  if ENDS[state] then tell(id_mid, idx, r, TOLD[state]) end
end

local touched = {}

local function change(id_mid, idx)
  local r = load(id_mid, idx)
  if not r then return end
  total = total + 1
  if not touched[id_mid] then
    touched[id_mid] = true
    call('HSET', 'pr:m:' .. id_mid, 'changed', 1)
  end
  local id = delivery_id(id_mid, idx)
  local held = r.state == 'u' and call('ZSCORE', HELD, id)
  if not MAY[what][r.state] or (what == 'retry' and r.state == 'u' and not held) or (what == 'expire' and held) then
    unchanged[r.state] = (unchanged[r.state] or 0) + 1
    return
  end
  local from = r.state
  if STOPPED[what] then
    stop(id_mid, idx, r, STOPPED[what])
  elseif what == 'retry' then
    local job_id = job_id_of(id_mid, idx, r.alarm)
    call('ZREM', 'rq:failed:' .. QUEUES[r.queue], job_id)
    call('DEL', 'rq:job:' .. job_id, 'rq:results:' .. job_id)
    r.attempts, r.deaths, r.paid = 0, nil, false -- as many tries as a new one
    arm(id_mid, idx, r, from == 'u' and 'u' or 's', due or NOW)
  else
    local at = due or tonumber(call('ZSCORE', LISTS[from], id) or unarmed_due(id_mid, idx))
    if what == 'move' and from == 'p' then
      call('ZADD', LISTS.p, seconds(at), id)
    else
      local job_id = job_id_of(id_mid, idx, r.alarm)
      call('ZREM', 'pr:line:' .. r.queue .. ' ' .. r.account, job_id)
      call('DEL', 'rq:job:' .. job_id)
      r.paid = false
      local state = from
      if from == 'p' then state = r.attempts > 0 and 'r' or 's' end
      arm(id_mid, idx, r, state, at)
    end
  end
  changed[from] = (changed[from] or 0) + 1
end

local next_index = ''
if mid ~= '' then
  local message, first, most = 'pr:m:' .. mid, tonumber(ARGV[4]), tonumber(ARGV[5])
  local all, committed = unpack(call('HMGET', message, 'total', 'committed'))
  if not committed then return { 0, '', '' } end
  all = tonumber(all)
  local last = math.min(all, first + most) - 1
  local ids = {}
  for idx = first, last do ids[#ids + 1] = delivery_id(mid, idx) end
  prefetch(ids)
  for idx = first, last do change(mid, idx) end
  if what == 'move' and due and next(changed) and tonumber(call('HGET', message, 'due')) ~= due then
    for state in pairs(counts_of(mid, all)) do
      if not MAY.move[state] then
        keep_as_it_was(mid, false)
        break
      end
    end
    call('HSET', message, 'due', seconds(due), 'timed', 1)
  end
  if last + 1 < all then
    next_index = last + 1
    call('HSET', message, 'change', cjson.encode({ what, ARGV[2], next_index }))
    call('ZADD', 'pr:changing', seconds(NOW + 10), mid)
  else
    call('HDEL', message, 'change')
    call('ZREM', 'pr:changing', mid)
    if what == 'cancel' or what == 'expire' then call('ZREM', 'pr:expiring', mid) end
  end
else
  local ids = { unpack(ARGV, 4) }
  prefetch(ids)
  for _, id in ipairs(ids) do
    local id_mid, idx = split(id)
    if id_mid then change(id_mid, idx) end
  end
end
if #jobs > 0 then call('DEL', unpack(jobs)) end
flush()
if woken then call('PUBLISH', 'pr:wake', seconds(woken)) end

local answer = { total, next_index }
for state, n in pairs(changed) do
  answer[#answer + 1] = state
  answer[#answer + 1] = n
end
answer[#answer + 1] = ''
for state, n in pairs(unchanged) do
  answer[#answer + 1] = state
  answer[#answer + 1] = n
end
return answer
