-- What every script here shares; put before each of them. Redis Cluster is not supported: keys are derived from ids.
--
-- Ours
--   pr:m:<message>             hash    body, accepted (s), due (s), timed, total, left, template, committed, armed
--   pr:d:<message>:<bucket>    hash    index -> record of that delivery; BUCKET of them, so that it stays a listpack
--   pr:a:<message>:<bucket>    hash    index -> its attempts, a line of JSON each
--   pr:waiting                 zset    delivery -> when it is due (s): scheduled, retrying, paused, unknown
--   pr:leases                  zset    job -> when its claim runs out (s)
--   pr:finished, pr:failed     zset    delivery -> when it ended (s)
--   pr:held                    zset    delivery -> since when it is unknown with no try left (s)
--   pr:accepting               zset    message -> until when its commit may run (s); gone once it is all armed
--   pr:moved                   hash    account, space, old address -> new address
--   pr:wake                    channel a due time (s), told to sleeping workers
-- RQ's and rq-scheduler's own: names and formats as rq 2.11 and rq-scheduler 0.14 have them
--   rq:job:<job>, rq:queue:<queue>, rq:wip:<queue>, rq:finished:<queue>, rq:failed:<queue>, rq:worker:<name>,
--   rq:results:<job>
--
-- A record is one line: state letter, alarm, attempts, queue letter, service/account, uuid.
-- A job's id is its delivery's, and from the second alarm on `-` and the alarm's number: who holds an older one comes
-- late and changes nothing.

local call = redis.call
local BUCKET = 100
local SCHEDULE = 'rq:scheduler:scheduled_jobs'
local QUEUES = { h = 'high', d = 'default', l = 'low' }
local WAITS = { s = true, r = true, u = true }
local RESTS = { t = 'pr:finished', f = 'pr:failed', u = 'pr:held' } -- where one stands that is not armed again
local MAX_LOG = 8000 -- bytes of attempts kept for one delivery; the oldest lines go first

local TIME = call('TIME')
local NOW = TIME[1] + TIME[2] / 1e6

-- Lua prints 14 digits of a number, which would cut a time to tenths of milliseconds.
local function seconds(s) return string.format('%.6f', s) end

-- RQ's time format, for `s` seconds since the epoch. Days to a date: howardhinnant.github.io/date_algorithms.html
local function rq_time(s)
  local day = math.floor(s / 86400)
  local rest = s - day * 86400
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local whole = math.floor(rest)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(whole / 3600), math.floor(whole / 60) % 60, whole % 60, math.floor((rest - whole) * 1e6))
end

-- The pickle (protocol 2) of ('jobs.deliver', None, (job_id,), {}): what RQ's default serializer reads.
local function payload(job_id)
  return '\128\2(X\12\0\0\0jobs.deliverNX' .. string.char(#job_id, 0, 0, 0) .. job_id .. '\133}t.'
end

local function split(job_id)
  local mid, idx, alarm = string.match(job_id, '^(%w+)%-(%d+)%-?(%d*)$')
  if not mid or #mid ~= 21 or #idx > 6 or #alarm > 6 then return nil end
  return mid, tonumber(idx), tonumber(alarm) or 0
end

local function delivery_id(mid, idx) return mid .. '-' .. idx end

local function job_id_of(mid, idx, alarm)
  return alarm == 0 and delivery_id(mid, idx) or delivery_id(mid, idx) .. '-' .. alarm
end

local function bucket(kind, mid, idx) return 'pr:' .. kind .. ':' .. mid .. ':' .. math.floor(idx / BUCKET) end

local function load(mid, idx)
  local raw = call('HGET', bucket('d', mid, idx), idx)
  if not raw then return nil end
  local state, alarm, attempts, queue, account, uuid = string.match(raw, '^(%a) (%d+) (%d+) (%a) (%S+) (.*)$')
  return { state = state, alarm = tonumber(alarm), attempts = tonumber(attempts), queue = queue, account = account, uuid = uuid }
end

local function save(mid, idx, r)
  call('HSET', bucket('d', mid, idx), idx,
    r.state .. ' ' .. r.alarm .. ' ' .. r.attempts .. ' ' .. r.queue .. ' ' .. r.account .. ' ' .. r.uuid)
end

local function write_job(job_id, queue, status, stamp)
  call('HSET', 'rq:job:' .. job_id, 'data', payload(job_id), 'created_at', stamp, 'origin', queue, 'status', status,
    'description', 'deliver')
end

-- Takes delivery `r` off every list that could send it: schedule, queue, leases.
local function disarm(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  call('ZREM', SCHEDULE, job_id)
  call('ZREM', 'pr:leases', job_id)
  call('ZREM', 'pr:waiting', delivery_id(mid, idx))
  call('ZREM', 'pr:held', delivery_id(mid, idx))
  return job_id
end

-- Arms delivery `r` for `due` with the next alarm; the job of the alarm before counts for nothing from here on.
local function rearm(mid, idx, r, due)
  disarm(mid, idx, r)
  r.alarm = r.alarm + 1
  save(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  write_job(job_id, QUEUES[r.queue], 'scheduled', rq_time(NOW))
  call('ZADD', SCHEDULE, seconds(due), job_id)
  call('ZADD', 'pr:waiting', seconds(due), delivery_id(mid, idx))
end

-- Moves the waiting job to `sending` under a lease. Returns its row, or nil: unknown, ended, or an older alarm.
local function take(job_id, lease_until)
  local mid, idx, alarm = split(job_id)
  local r = mid and load(mid, idx)
  if not r or r.alarm ~= alarm or not WAITS[r.state] then
    -- A second listing of what is being sent right now keeps its job: RQ's tools show it as running.
    if not (r and r.alarm == alarm and r.state == 'g') then call('DEL', 'rq:job:' .. job_id) end
    return nil
  end
  local before = r.state
  r.state = 'g'
  save(mid, idx, r)
  call('ZADD', 'pr:leases', seconds(lease_until), job_id)
  call('ZREM', 'pr:waiting', delivery_id(mid, idx))
  local to = call('HGET', 'pr:moved', r.account .. ' ' .. r.uuid) or r.uuid
  return { job_id, before, r.attempts, r.account, r.uuid, to, QUEUES[r.queue] }, mid
end

-- What the sender of these rows has to know of their messages: id, then its fields, per distinct message.
local function messages(mids)
  local out = {}
  for mid in pairs(mids) do
    out[#out + 1] = mid
    out[#out + 1] = call('HMGET', 'pr:m:' .. mid, 'body', 'accepted', 'due', 'timed', 'total', 'template')
  end
  return out
end

