-- What every script here shares; put before each of them. Redis Cluster is not supported: keys are derived from ids.
--
-- Ours
--   pr:m:<message>             hash    body, accepted (s), due (s), timed, total, left, template, committed, armed, written,
--                                      receivers (how many of them one call can reach), owner (a client's id; none:
--                                      the user of the settings), reference, tags, services, schedule, quota (see
--                                      pr:waits), callback_url, callback_format, told (how many events),
--                                      more (JSON: what only the sender of a delivery has to know), change (one
--                                      that goes on), changed, n:<state letter> (how many are there, see `moves`),
--                                      files (JSON), file_ids (those of them that we keep), partial (a delivery has
--                                      failed of which some files have gone), earlier (how often it was changed while a
--                                      part of it had gone), and of each such time until:<n> (s), due:<n>, body:<n> (none
--                                      where the text stayed): see `went_with`
--   pr:file:<file>             hash    see files.py
--   pr:file:<file>:of          set     who needs it, see `hold_files`
--   pr:files:unused            zset    file that none needs -> when it is deleted (s)
--   pr:d:<message>:<bucket>    hash    index -> record of that delivery; BUCKET of them, so that it stays a listpack
--   pr:a:<message>:<bucket>    hash    index -> its attempts and receipts, a line of JSON each
--   pr:w:<message>:<bucket>    hash    index -> when it is due, until it is armed; of messages with `dues`: each has its own
--   pr:in:<state>              zset    delivery -> when it is due, or when it ended (s); for each state but `sending`,
--                                      which has leases; unknown with no try left stands in pr:in:held instead
--   pr:z:<message>             hash    index -> time zone of a recipient, where the message's window is meant there
--   pr:leases                  zset    job -> when its claim runs out (s)
--   pr:accepting               zset    message -> until when its commit may run (s); gone once it is all armed
--   pr:to:b:<bucket>           zset    delivery -> 0, by recipient: see `recipients_bucket`
--   pr:messages                zset    message -> 0, so in order of time; the same for those of one
--                                      pr:messages:o:<owner>, :r:<reference>, :t:<tag>, :s:<service>
--   pr:expiring                zset    message -> when what has not gone expires (s)
--   pr:changing                zset    message -> when the sweep goes on with its change (s)
--   pr:stops                   hash    what an operator has stopped -> JSON: `all`, `service telegram`,
--                                      `account telegram/shop`, `client <id>`
--   pr:stopped                 set     clients of whom something waits in
--   pr:stopped:<client>        zset    job -> since when it waits for its client to go on (s)
--   pr:ledger                  hash    <hour of acceptance>:<`a`, or letter of an end> -> deliveries
--   pr:moved                   hash    account, space, old address -> new address
--   pr:to:<account> <uuid>     string  when this recipient may get the next one (s); gone once that is past, and none waits in
--   pr:turns:<account> <uuid>  zset    job -> its place among those that wait for the same recipient (s): see `call_next`
--   pr:account:<account>       hash    see _accounts.lua
--   pr:not:<account> <uuid>    string  until when its messenger has asked us to wait with this recipient (s)
--   pr:pairs                   string  there while there is any such
--   pr:queued                  hash    account -> how many of its jobs we have put into RQ's queues
--   pr:line:<letter> <account> zset    job -> since when it waits for its account (s): taken out of its queue, because
--                                      others behind it could go; a letter per queue
--   pr:lines                   set     those of these that hold something
--   pr:alone                   zset    job -> since when it waits to be sent alone (s)
--   pr:ids:<day>:<slot>        hash    second part of a mark -> job: what was sent, by the messenger's id for it; the first
--                                      part gives the slot, a mark is made by records.mark. Kept by days, so that
--                                      each needs no time of its own
--   pr:early:<mark or id>      list    receipts that came before their delivery was recorded: letter, dead (0, 1), line
--   pr:early                   string  there while there may be any such
--   pr:suppressed              hash    address (service, space, uuid) -> why (letter), since when (s), reason
--   pr:suppressed:order        zset    the same addresses, all at 0: in order of their letters
--   pr:incoming                stream  incoming messages, JSON each
--   pr:served                  string  when a worker of ours last claimed (s)
--   pr:claimed:<worker>        string  its last claim: nonce and jobs, for one whose answer was lost
--   pr:s:<schedule>            hash    version `v`, owner, body, repeat, missed, state, made, next (s), local, message, ready,
--                                      drop, again, trouble, created (s), changed (s): see schedules.py
--   pr:schedules, pr:schedules:of:<owner>   zset, all at 0: schedules in order of their ids
--   pr:schedules:due           zset    schedule -> when to look at it (s)
--   pr:turn, pr:swept, pr:patience   strings of claim and overdue
--   pr:rescue                  hash    state letter -> how far the rescue has come
--   pr:metrics                 hash    name, labels and bucket as JSON -> number: what all processes have counted
--   pr:alerts                  zset    place, when it was raised (s), text -> when it is told, or told again (s)
--   pr:alert:<kind> <key>      string  there while the same is not told once more
--   pr:alert:lasting           set     kind, key: told, and not over
--   pr:outbox                  list    events that callbacks are to tell, a line of JSON each: see `tell`
--   pr:tasks:<message>         bitmap  whose end was told, where that is told once
--   pr:c:<callback>, pr:cb:... see _callbacks.lua
--   pr:task:<task>, pr:work:... see tasks.py
--   pr:wake                    channel a due time (s), told to sleeping workers
--   pr:client:<client>         hash    kind (`key`, `user`), name, role, secret (hashed), by, created, disabled (s), rate,
--                                      waiting, recipients
--   pr:clients:<kind>          zset    client -> when it was made (s)
--   pr:clients:names:<kind>    hash    name -> client
--   pr:clients:digests         hash    SHA-256 of a key -> client
--   pr:clients:used            hash    client -> when it was last there (s, to the minute)
--   pr:clients:turn            string  how often any of them was changed
--   pr:waits:<client>          string  how many deliveries of its counted messages have not ended: of those that were
--                                      accepted while the client had a limit
--   pr:rate:<client>           string  when its bucket is full again (s)
--   pr:tries:at <network>, pr:tries:as <account>   zset  try -> when (s): of the last minute, but for those that were right
--   pr:tries:knows <account> <network>   string  there while the account has come in from there lately
--   pr:tries:told <network>    string  there once it was told in this minute that it has tried too often
--   pr:audit:<kind>            stream  who did what; see audit.py
-- RQ's and rq-scheduler's own: names and formats as rq 2.11 and rq-scheduler 0.14 have them
--   rq:job:<job>, rq:queue:<queue>, rq:wip:<queue>, rq:finished:<queue>, rq:failed:<queue>, rq:worker:<name>,
--   rq:results:<job>
--
-- A record is one line: state letter, queue letter and marks; alarm and attempts, both left out while they are 0; account
-- (its service; `/` and its name unless that is `default`); uuid. Marks: `+` its turn with its recipient has come; `*` it
-- counts among what its owner has waiting; `#` its message keeps counts; `@` callbacks tell of it; `!n` its worker died, so
-- that it is sent alone, and n such lone attempts have ended so, too.
-- A job's id is its delivery's, and from the second alarm on `-` and the alarm's number: who holds an older one comes
-- late and changes nothing.

local call = redis.call
local BUCKET = 100
local SCHEDULE = 'rq:scheduler:scheduled_jobs'
local QUEUES = { h = 'high', d = 'default', l = 'low' }
local LETTERS = { 'h', 'd', 'l' }
local WAITS = { s = true, r = true, u = true }
local LISTS = {
  s = 'pr:in:scheduled', r = 'pr:in:retrying', u = 'pr:in:unknown', p = 'pr:in:paused', t = 'pr:in:sent', d = 'pr:in:delivered',
  e = 'pr:in:read', f = 'pr:in:failed', c = 'pr:in:cancelled', x = 'pr:in:expired', z = 'pr:in:suppressed',
}
local HELD = 'pr:in:held'
local ENDS = { t = true, d = true, e = true, f = true, c = true, x = true, z = true }
-- State -> what a receipt can make of it; the part of MOVES that is theirs.
local RECEIPTS = { t = { d = true, e = true, f = true }, d = { e = true }, u = { t = true, d = true, e = true, f = true } }
local SENT = { t = true, d = true, e = true }
local COUNTED = 100 -- deliveries: a larger message keeps counts, of a smaller one they are counted when asked for
local RECIPIENT_BUCKETS = 16384 -- so that a million deliveries leave each a listpack
local MAX_LOG = 8000 -- bytes of attempts kept for one delivery; the oldest lines go first
local MARKED_DAYS = 30 -- a receipt for what was sent longer ago finds nothing

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

local splits = {} -- job or delivery -> its parts, or false: each is asked for several times in a script

local function split(job_id)
  local parts = splits[job_id]
  if parts == nil then
    local mid, idx, alarm = string.match(job_id, '^(%w+)%-(%d+)%-?(%d*)$')
    parts = mid and #mid == 21 and #idx <= 6 and #alarm <= 6 and { mid, tonumber(idx), tonumber(alarm) or 0 }
    splits[job_id] = parts
  end
  if not parts then return nil end
  return parts[1], parts[2], parts[3]
end

local function delivery_id(mid, idx) return mid .. '-' .. idx end

local function job_id_of(mid, idx, alarm)
  return alarm == 0 and delivery_id(mid, idx) or delivery_id(mid, idx) .. '-' .. alarm
end

local buckets = { d = {}, a = {}, w = {} } -- kind -> message -> number -> key

local function bucket(kind, mid, idx)
  local of_message = buckets[kind][mid]
  if not of_message then
    of_message = {}
    buckets[kind][mid] = of_message
  end
  local n = (idx - idx % BUCKET) / BUCKET
  local key = of_message[n]
  if not key then
    key = 'pr:' .. kind .. ':' .. mid .. ':' .. n
    of_message[n] = key
  end
  return key
end

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

local tally = {} -- key -> field -> by how much: `flush` writes it

local function flush()
  for _, by_key in pairs(gathered) do
    for _, args in pairs(by_key) do call(unpack(args)) end
  end
  gathered = {}
  for key, fields in pairs(tally) do
    for field, by in pairs(fields) do
      if by ~= 0 then call('HINCRBY', key, field, by) end
    end
  end
  tally = {}
end

local DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
local DIGIT = {}
for i = 1, #DIGITS do DIGIT[string.byte(DIGITS, i)] = i - 1 end
local hours = {} -- message -> the hour in which it was accepted

-- The message's hour, counted from the epoch: its id begins with 45 bits of milliseconds. The first ten digits tell.
local function hour_of(mid)
  local hour = hours[mid]
  if not hour then
    local n = 0
    for i = 1, 10 do n = n * 62 + DIGIT[string.byte(mid, i)] end
    hour = math.floor(n * 62 ^ 11 / 2 ^ 80 / 3600000)
    hours[mid] = hour
  end
  return hour
end

local function count(key, field, by)
  local fields = tally[key]
  if not fields then
    fields = {}
    tally[key] = fields
  end
  fields[field] = (fields[field] or 0) + by
end

-- Takes `n` deliveries of a message with a quota off what its owner has waiting.
local function uncount(mid, n)
  local owner = call('HGET', 'pr:m:' .. mid, 'owner')
  if owner and call('DECRBY', 'pr:waits:' .. owner, n) <= 0 then call('DEL', 'pr:waits:' .. owner) end
end

-- Every change of a state goes through here: message, ledger and its owner's quota are told.
local function moves(mid, r, state)
  local from = r.state
  r.state = state
  if from == state then return end
  if r.counted then
    if from ~= 's' then count('pr:m:' .. mid, 'n:' .. from, -1) end
    if state ~= 's' then count('pr:m:' .. mid, 'n:' .. state, 1) end
  end
  if ENDS[from] then count('pr:ledger', hour_of(mid) .. ':' .. from, -1) end
  if ENDS[state] then
    count('pr:ledger', hour_of(mid) .. ':' .. state, 1)
    if r.quota then
      r.quota = false
      uncount(mid, 1)
    end
  end
end

-- Where the deliveries to a recipient are found again.
local function recipients_bucket(uuid)
  return 'pr:to:b:' .. tonumber(string.sub(redis.sha1hex(uuid), 1, 8), 16) % RECIPIENT_BUCKETS
end

-- The lists of messages in which this one stands.
local function lists_of(message)
  local owner, reference, tags, services = unpack(call('HMGET', message, 'owner', 'reference', 'tags', 'services'))
  local keys = { 'pr:messages' }
  if owner then keys[#keys + 1] = 'pr:messages:o:' .. owner end
  if reference then keys[#keys + 1] = 'pr:messages:r:' .. reference end
  for _, tag in ipairs(tags and cjson.decode(tags) or {}) do keys[#keys + 1] = 'pr:messages:t:' .. tag end
  for service in string.gmatch(services or '', '%S+') do keys[#keys + 1] = 'pr:messages:s:' .. service end
  return keys
end

local function service_of(account) return string.match(account, '^[^/]+') end

local records = {} -- bucket -> index -> record, or false, or its line until somebody asks for more: read once in a script

local function parse(raw)
  if not raw then return false end
  -- One that nothing has happened to, as most are.
  local s, q, m, name, to = string.match(raw, '^(%a)([hdl])([#@]*) (%a%S*) (.*)$')
  if s then
    return { state = s, queue = q, turn = false, paid = false, quota = false, counted = m ~= '' and m ~= '@',
      told = m ~= '' and m ~= '#', alarm = 0, attempts = 0, account = name, uuid = to }
  end
  local state, queue, marks, deaths, rest = string.match(raw, '^(%a)([hdl])([+=#*@]*)!?(%d*) (.*)$')
  if not rest then return false end -- nothing, or nothing of ours
  local alarm, attempts, account, uuid = string.match(rest, '^(%d+) (%d+) (%S+) (.*)$')
  if not alarm then
    alarm, attempts = 0, 0
    account, uuid = string.match(rest, '^(%a%S*) (.*)$')
    if not uuid then return false end
  end
  local function has(mark) return string.find(marks, mark, 1, true) ~= nil end
  return { state = state, queue = queue, turn = has('+'), paid = has('='), counted = has('#'), told = has('@'),
    quota = has('*'), deaths = tonumber(deaths), alarm = tonumber(alarm),
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
      if found[indexes[i]] == nil then found[indexes[i]] = raw end
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
  local r = found[idx]
  if r == nil then r = call('HGET', key, idx) end
  if type(r) ~= 'table' then
    r = parse(r)
    found[idx] = r
  end
  return r or nil
end

-- Queue letter and account of one that was prefetched and waits, as it seems at a glance; nil for any other.
local function glance(job_id)
  local mid, idx = split(job_id)
  local line = mid and records[bucket('d', mid, idx)][idx]
  if type(line) ~= 'string' then
    local r = line
    if not r or not WAITS[r.state] then return nil end
    return r.queue, r.account
  end
  local state, queue, account = string.match(line, '^(%a)([hdl])%S* (%a%S*)')
  if not state then state, queue, account = string.match(line, '^(%a)([hdl])%S* %d+ %d+ (%S+)') end
  if not WAITS[state] then return nil end
  return queue, account
end

local function as_text(r)
  local marks = r.queue .. (r.counted and '#' or '') .. (r.told and '@' or '') .. (r.quota and '*' or '') .. (r.turn and '+' or '')
    .. (r.paid and '=' or '') .. (r.deaths and '!' .. r.deaths or '')
  local counts = (r.alarm > 0 or r.attempts > 0) and ' ' .. r.alarm .. ' ' .. r.attempts or ''
  return r.state .. marks .. counts .. ' ' .. r.account .. ' ' .. r.uuid
end

local function save(mid, idx, r) call('HSET', bucket('d', mid, idx), idx, as_text(r)) end

-- State -> the event that callbacks tell when a delivery comes to it; the last where it stands in no line any more.
local TOLD = {
  t = 'sent', d = 'delivered', e = 'read', f = 'failed', c = 'cancelled', x = 'expired', z = 'suppressed', u = 'unknown',
}
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

-- Keeps a line of what happened to a delivery.
local function log(mid, idx, line)
  local key = bucket('a', mid, idx)
  if call('HSETNX', key, idx, line) == 1 then return end
  local lines = call('HGET', key, idx)
  if string.sub(lines, -#line) == line then return end -- recorded before, and the answer was lost
  lines = lines .. '\n' .. line
  while #lines > MAX_LOG and string.find(lines, '\n') do lines = string.gsub(lines, '^[^\n]*\n', '', 1) end
  call('HSET', key, idx, lines)
end

local function ids_of(day, mark) return 'pr:ids:' .. day .. ':' .. (string.byte(mark, 1) * 256 + string.byte(mark, 2)) % 4096 end

-- Writes down under which mark its messenger will speak of this, for so many seconds at least.
local function remember(mark, word, keep_s)
  local key = ids_of(math.floor(NOW / 86400), mark)
  call('HSET', key, string.sub(mark, 3), word)
  call('EXPIRE', key, math.ceil(math.min(keep_s, MARKED_DAYS * 86400)) + 86400, 'NX')
end

-- What was written down under `mark` in as many seconds, the latest; or nil.
local function recall(mark, keep_s)
  local today = math.floor(NOW / 86400)
  for day = today, today - math.min(math.ceil(keep_s / 86400), MARKED_DAYS), -1 do
    local found = call('HGET', ids_of(day, mark), string.sub(mark, 3))
    if found then return found end
  end
  return nil
end

-- How an address stands among the suppressed: a number is the same with its plus and without.
local function address(account, uuid)
  return string.match(account, '^[^/]+') .. ' ' .. (string.match(uuid, '^%+(%d+)$') or uuid)
end

-- From here on nothing is sent to this address. `why`: `o` it opted out, `d` it is dead, `m` somebody said so by hand.
local function suppress(addressed, why, reason)
  call('HSET', 'pr:suppressed', addressed, why .. ' ' .. seconds(NOW) .. ' ' .. reason)
  call('ZADD', 'pr:suppressed:order', 0, addressed)
end

-- The same for one that its messenger calls dead; what is known of it already stands.
local function bury(account, uuid, reason)
  local addressed = address(account, uuid)
  if call('HEXISTS', 'pr:suppressed', addressed) == 0 then suppress(addressed, 'd', reason) end
end

-- Files stay as long as somebody needs them: a message, a schedule, or `handover <id>`. `ids`: with spaces between.
local function files_are_there(ids)
  for id in string.gmatch(ids, '%S+') do
    if call('EXISTS', 'pr:file:' .. id) == 0 then return false end
  end
  return true
end

local function hold_files(ids, by)
  for id in string.gmatch(ids, '%S+') do
    call('SADD', 'pr:file:' .. id .. ':of', by)
    call('ZREM', 'pr:files:unused', id)
  end
end

-- What nobody else needs is deleted by the next sweep.
local function release_files(ids, by)
  for id in string.gmatch(ids, '%S+') do
    local users = 'pr:file:' .. id .. ':of'
    if call('SREM', users, by) == 1 and call('EXISTS', users) == 0 then call('ZADD', 'pr:files:unused', seconds(NOW), id) end
  end
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

local MOST_EARLIER = 20 -- of one message

-- Keeps, before a message is changed, what the part of it that has gone went with; its text, too, if that is to change. Gives
-- whether there is room for one more.
local function keep_as_it_was(mid, with_text)
  local message = 'pr:m:' .. mid
  local n = call('HINCRBY', message, 'earlier', 1)
  if n > MOST_EARLIER then
    call('HINCRBY', message, 'earlier', -1)
    return false
  end
  local body, due = unpack(call('HMGET', message, 'body', 'due'))
  call('HSET', message, 'until:' .. n, seconds(NOW), 'due:' .. n, due)
  if with_text then call('HSET', message, 'body:' .. n, body) end
  return true
end

local earlier = {} -- message -> how often it was changed while a part of it had gone: read once in a script

-- The text and the due time that a delivery went with which ended at `at`, where its message has others by now; else nil.
local function went_with(mid, idx, at)
  local message = 'pr:m:' .. mid
  earlier[mid] = earlier[mid] or tonumber(call('HGET', message, 'earlier') or 0)
  if earlier[mid] == 0 then return nil end
  for line in string.gmatch(call('HGET', bucket('a', mid, idx), idx) or '', '[^\n]+') do
    local told = cjson.decode(line)
    if #told >= 5 then at = told[1] end -- an attempt: when its text was read
  end
  local body, due = nil, nil
  for n = 1, earlier[mid] do
    local until_at, its_due, its_body = unpack(call('HMGET', message, 'until:' .. n, 'due:' .. n, 'body:' .. n))
    if at < tonumber(until_at) then
      due = due or its_due
      body = body or its_body
    end
  end
  return body or '', due or ''
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

-- Byte by byte, as a sorted set does. Lua's own comparison follows the locale that Redis runs under.
local function is_after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- The rank, from the end that `up` or down begins with, of the first entry behind (score, id); by bisection, as that entry
-- itself may be gone.
local function rank_behind(list, up, at, id)
  local total = call('ZCARD', list)
  local low, high = 0, total
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = call('ZRANGE', list, middle, middle, 'WITHSCORES')
    local score = tonumber(entry[2])
    local behind = score > at or (score == at and is_after(entry[1], id))
    if not up then behind = behind or (score == at and entry[1] == id) end
    if behind then high = middle else low = middle + 1 end
  end
  return up and low or total - low
end

-- How many of a message's deliveries stand where: state letter -> number. Those forgotten count as they were.
local function counts_of(mid, total)
  local found, rest = {}, total
  local fields = call('HGETALL', 'pr:m:' .. mid)
  for i = 1, #fields, 2 do
    local state = string.match(fields[i], '^n:(%a)$')
    if state and tonumber(fields[i + 1]) > 0 then
      found[state] = tonumber(fields[i + 1])
      rest = rest - found[state]
    end
  end
  if total > COUNTED then
    if rest > 0 then found.s = rest end
    return found
  end
  for _, raw in ipairs(call('HVALS', bucket('d', mid, 0))) do
    local state = string.sub(raw, 1, 1)
    found[state] = (found[state] or 0) + 1
  end
  return found
end

-- What an operator has stopped, by name; nil when nothing is.
local stops = nil
local function stopped(name)
  if stops == nil then
    stops = {}
    for _, field in ipairs(call('HKEYS', 'pr:stops')) do stops[field] = true end
  end
  return stops[name]
end

local function is_stopped(account)
  return stopped('all') or (next(stops) and (stops['service ' .. service_of(account)] or stops['account ' .. account]))
end

local client_stops = nil
-- The client of a message, when it is one that is stopped.
local function stopped_client(mid)
  if client_stops == nil then
    client_stops = false
    stopped('all')
    for field in pairs(stops) do client_stops = client_stops or string.sub(field, 1, 7) == 'client ' end
  end
  if not client_stops then return nil end
  local owner = call('HGET', 'pr:m:' .. mid, 'owner') or ''
  return stops['client ' .. owner] and owner
end
