-- What every script here shares; put before each of them. Redis Cluster is not supported: keys are derived from ids.
--
-- Ours
--   pr:m:<message>             hash    body, accepted (s), due (s), timed, total, left, template, committed, armed,
--                                      receivers (how many of them one call can reach); for callbacks: callback_url,
--                                      callback_format, owner, reference, told (how many events)
--   pr:d:<message>:<bucket>    hash    index -> record of that delivery; BUCKET of them, so that it stays a listpack
--   pr:a:<message>:<bucket>    hash    index -> its attempts, a line of JSON each
--   pr:waiting                 zset    delivery -> when it is due (s): scheduled, retrying, paused, unknown
--   pr:leases                  zset    job -> when its claim runs out (s)
--   pr:finished, pr:failed     zset    delivery -> when it ended (s)
--   pr:held                    zset    delivery -> since when it is unknown with no try left (s)
--   pr:accepting               zset    message -> until when its commit may run (s); gone once it is all armed
--   pr:moved                   hash    account, space, old address -> new address
--   pr:to:<account> <uuid>     string  when this recipient may get the next one (s); gone once that is past
--   pr:account:<account>       hash    see _accounts.lua
--   pr:not:<account> <uuid>    string  until when its messenger has asked us to wait with this recipient (s)
--   pr:pairs                   string  there while there is any such
--   pr:queued                  hash    account -> how many of its jobs we have put into RQ's queues
--   pr:line:<letter> <account> zset    job -> since when it waits for its account (s): taken out of its queue, because
--                                      others behind it could go; a letter per queue
--   pr:lines                   set     those of these that hold something
--   pr:alone                   zset    job -> since when it waits to be sent alone (s)
--   pr:served                  string  when a worker of ours last claimed (s)
--   pr:claimed:<worker>        string  its last claim: nonce and jobs, for one whose answer was lost
--   pr:turn, pr:swept, pr:patience, pr:rescued   strings of claim, overdue and rescue
--   pr:outbox                  list    events that callbacks are to tell, a line of JSON each: see `tell`
--   pr:tasks:<message>         bitmap  whose end was told, where that is told once
--   pr:c:<callback>, pr:cb:... see _callbacks.lua
--   pr:wake                    channel a due time (s), told to sleeping workers
-- RQ's and rq-scheduler's own: names and formats as rq 2.11 and rq-scheduler 0.14 have them
--   rq:job:<job>, rq:queue:<queue>, rq:wip:<queue>, rq:finished:<queue>, rq:failed:<queue>, rq:worker:<name>,
--   rq:results:<job>
--
-- A record is one line: state letter, queue letter and marks; alarm and attempts, both left out while they are 0; account
-- (its service; `/` and its name unless that is `default`); uuid. Marks: `*` callbacks tell of it; `+` its turn with its
-- recipient has come; `!n` its worker died, so that it is sent alone, and n such lone attempts have ended so, too.
-- A job's id is its delivery's, and from the second alarm on `-` and the alarm's number: who holds an older one comes
-- late and changes nothing.

local call = redis.call
local BUCKET = 100
local SCHEDULE = 'rq:scheduler:scheduled_jobs'
local QUEUES = { h = 'high', d = 'default', l = 'low' }
local LETTERS = { 'h', 'd', 'l' }
local WAITS = { s = true, r = true, u = true }
local RESTS = { t = 'pr:finished', f = 'pr:failed', u = 'pr:held' } -- where one stands that is not armed again
local MAX_LOG = 8000 -- bytes of attempts kept for one delivery; the oldest lines go first

local TIME = call('TIME')
local NOW = TIME[1] + TIME[2] / 1e6

-- Lua prints 14 digits of a number, which would cut a time to tenths of milliseconds.
local function seconds(s) return string.format('%.6f', s) end

-- RQ's time format, for `s` seconds since the epoch; in whole seconds it is shorter.
-- Days to a date: howardhinnant.github.io/date_algorithms.html
local function rq_time(s, in_whole_seconds)
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
  local text = string.format('%04d-%02d-%02dT%02d:%02d:%02d', year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(whole / 3600), math.floor(whole / 60) % 60, whole % 60)
  return text .. (in_whole_seconds and 'Z' or string.format('.%06dZ', math.floor((rest - whole) * 1e6)))
end

-- The pickle (protocol 4) of ('jobs.deliver', None, (job_id,), {}): what RQ's default serializer reads.
local function payload(job_id)
  return '\128\4(\140\12jobs.deliverN\140' .. string.char(#job_id) .. job_id .. '\133}t.'
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

-- Commands on one key, gathered and sent as one: half of what a command costs is the way to it. `flush` ends each script
-- that gathers. Never for a member that the same script touches otherwise.
local gathered = {} -- command -> key -> all of the call

local function later(command, key, first, second)
  local by_key = gathered[command]
  if not by_key then
    by_key = {}
    gathered[command] = by_key
  end
  local args = by_key[key]
  if not args then
    args = { command, key }
    by_key[key] = args
  end
  args[#args + 1] = first
  if second then args[#args + 1] = second end
end

local function flush()
  for _, by_key in pairs(gathered) do
    for _, args in pairs(by_key) do call(unpack(args)) end
  end
  gathered = {}
end

local records = {} -- bucket -> index -> record, or false: read once in a script

local function parse(raw)
  local state, queue, told, slot, deaths, rest = string.match(raw or '', '^(%a)([hdl])(%*?)(%+?)!?(%d*) (.*)$')
  if not rest then return false end -- nothing, or nothing of ours
  local alarm, attempts, account, uuid = string.match(rest, '^(%d+) (%d+) (%S+) (.*)$')
  if not alarm then
    alarm, attempts = 0, 0
    account, uuid = string.match(rest, '^(%a%S*) (.*)$')
    if not uuid then return false end
  end
  return { state = state, queue = queue, told = told == '*', slot = slot == '+', deaths = tonumber(deaths), alarm = tonumber(alarm),
    attempts = tonumber(attempts), account = account, uuid = uuid }
end

-- Reads the records of many jobs at once.
local function prefetch(job_ids)
  local wanted = {}
  for _, job_id in ipairs(job_ids) do
    local mid, idx = split(job_id)
    if mid then
      local key = bucket('d', mid, idx)
      if not wanted[key] then wanted[key] = {} end
      table.insert(wanted[key], idx)
    end
  end
  for key, indexes in pairs(wanted) do
    local found = records[key] or {}
    records[key] = found
    for i, raw in ipairs(call('HMGET', key, unpack(indexes))) do
      if found[indexes[i]] == nil then found[indexes[i]] = parse(raw) end
    end
  end
end

local function load(mid, idx)
  local key = bucket('d', mid, idx)
  local found = records[key]
  if not found then
    found = {}
    records[key] = found
  end
  if found[idx] == nil then found[idx] = parse(call('HGET', key, idx)) end
  return found[idx] or nil
end

local function as_text(r)
  local marks = r.queue .. (r.told and '*' or '') .. (r.slot and '+' or '') .. (r.deaths and '!' .. r.deaths or '')
  local counts = (r.alarm > 0 or r.attempts > 0) and ' ' .. r.alarm .. ' ' .. r.attempts or ''
  return r.state .. marks .. counts .. ' ' .. r.account .. ' ' .. r.uuid
end

local function save(mid, idx, r) call('HSET', bucket('d', mid, idx), idx, as_text(r)) end

-- Events that end a delivery, as far as we can tell.
local ENDS_TASK = { sent = true, failed = true, cancelled = true, expired = true, suppressed = true }
local TASKS_KEPT_S = 90 * 86400
local callbacks = {} -- message -> what its callbacks need: read once in a script

-- Puts into the outbox that delivery `r` has come to `event` (sent, delivered, read, failed, cancelled, expired, suppressed,
-- unknown), when callbacks tell of it. To be called with every change to such a state, in the script that makes it; `reason`
-- and `provider_id` may be nil. The line holds all that a callback needs: its message may be purged before anybody reads it.
local function tell(mid, idx, r, event, reason, provider_id)
  if not r.told then return end
  local message, id = 'pr:m:' .. mid, delivery_id(mid, idx)
  local c = callbacks[mid]
  if not c then
    c = call('HMGET', message, 'callback_url', 'callback_format', 'owner', 'reference', 'total')
    callbacks[mid] = c
  end
  local sequence = call('HINCRBY', message, 'told', 1)
  local tries = r.attempts + ((event == 'sent' or event == 'delivered' or event == 'read') and 1 or 0) -- a yes uses up none
  local line = { id = string.format('%s_%06d', mid, sequence), type = 'delivery.' .. event, at = seconds(NOW),
    url = c[1] or nil, owner = c[3] or nil, data = { id = id, message = mid, uuid = r.uuid, account = r.account,
      state = event, reason = reason or '', provider_id = provider_id or '', reference = c[4] or nil, attempts = tries,
      sequence = sequence } }
  if c[2] == 'task' then
    line.format = 'task'
    local tasks = 'pr:tasks:' .. mid
    if ENDS_TASK[event] and call('SETBIT', tasks, idx, 1) == 0 then
      line.task = c[5] == '1' and mid or id
      call('EXPIRE', tasks, TASKS_KEPT_S)
    end
  end
  call('RPUSH', 'pr:outbox', cjson.encode(line))
end

local function write_job(job_id, queue, status, stamp)
  call('HSET', 'rq:job:' .. job_id, 'data', payload(job_id), 'created_at', stamp, 'origin', queue, 'status', status,
    'description', 'deliver')
end

-- Takes delivery `r` off every list that could send it.
local function disarm(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  call('ZREM', SCHEDULE, job_id)
  call('ZREM', 'pr:leases', job_id)
  call('ZREM', 'pr:waiting', delivery_id(mid, idx))
  call('ZREM', 'pr:held', delivery_id(mid, idx))
  if r.deaths then call('ZREM', 'pr:alone', job_id) end
  return job_id
end

-- Arms delivery `r` for `due` with the next alarm; the job of the alarm before counts for nothing from here on.
local function rearm(mid, idx, r, due)
  disarm(mid, idx, r)
  r.alarm = r.alarm + 1
  save(mid, idx, r)
  local job_id = job_id_of(mid, idx, r.alarm)
  write_job(job_id, QUEUES[r.queue], 'scheduled', rq_time(NOW, true))
  call('ZADD', SCHEDULE, seconds(due), job_id)
  call('ZADD', 'pr:waiting', seconds(due), delivery_id(mid, idx))
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

local somebody_moved = nil

-- What the sender of delivery `r` has to know of it. `how` is `probe`, `alone` or ''.
local function row(job_id, r, how)
  if somebody_moved == nil then somebody_moved = call('EXISTS', 'pr:moved') == 1 end
  local to = somebody_moved and call('HGET', 'pr:moved', r.account .. ' ' .. r.uuid) or r.uuid
  return { job_id, r.attempts, r.account, r.uuid, to, how, r.deaths or '' }
end

-- Moves waiting delivery `r` to `sending` under a lease. Gives its row.
local function take(job_id, mid, idx, r, lease_until, how)
  r.state = 'g'
  r.slot = false
  later('HSET', bucket('d', mid, idx), idx, as_text(r))
  later('ZADD', 'pr:leases', seconds(lease_until), job_id)
  later('ZREM', 'pr:waiting', delivery_id(mid, idx))
  return row(job_id, r, how)
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

