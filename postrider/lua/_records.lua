-- Records of deliveries, and their moves from state to state, of which all that counts them is told.

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
