-- What every script here builds on: names, time, ids, and commands that are gathered. Keys: README.md

local call = redis.call
local BUCKET = 100
local SCHEDULE = 'rq:scheduler:scheduled_jobs'
local QUEUES = { h = 'high', d = 'default', l = 'low' }
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
