-- What an account may do now: its rate, its pauses, its circuit breaker. Shared by claim, claim_one and record.
--
--   pr:account:<account>  hash
--     next          when its next slot is free (s)
--     day, sent     how many it was given on that day, counted from the epoch in the service's zone
--     until, why    nothing goes before (s), and what the messenger said; gone once something has gone well again
--     kind          of that pause: the signal that made it (see record.lua)
--     held          when something last waited for its rate or its pause (s)
--     probe         the one job that went out after `until`, to find out
--     opened        how often in a row it was paused without a wait that the messenger named
--     fails, failed how many deliveries in a row the messenger did not answer, or answered 5xx; the last of them

local BREAKS_AT = 5 -- deliveries in a row; one that always fails for its own sake opens no breaker
local BREAK_MAX_S = 30
local REFUSED_MAX_S = 300 -- a refused token: somebody has to mend it

-- How long the n-th pause in a row lasts.
local function doubling(first_s, n, most_s) return math.min(most_s, first_s * 2 ^ math.min(n - 1, 20)) end

local specs = {} -- account -> what the caller knows of it: see postrider/limits.py
local books_ahead = false -- whether each that has to wait takes a slot at once
local known = {} -- account -> what was found in Redis, and how many more may `go` now

local function account(name)
  local a = known[name]
  if a then return a end
  local spec = specs[name]
  a = { name = name, spec = spec, key = 'pr:account:' .. name, go = 0, used = 0 }
  known[name] = a
  if not spec then return a end -- not set up at who asks: somebody else may know it
  local next_at, until_at, probe, day, sent, held = unpack(call('HMGET', a.key, 'next', 'until', 'probe', 'day', 'sent', 'held'))
  a.held = held or nil
  a.go = spec.free
  a.stopped = is_stopped(name)
  if until_at then
    a.paused = true
    if NOW < tonumber(until_at) then
      a.go, a.again = 0, tonumber(until_at)
    elseif probe and tonumber(call('ZSCORE', 'pr:leases', probe) or 0) > NOW then
      a.go = 0 -- whoever records how it ends wakes the rest
    else
      a.go = math.min(a.go, 1)
    end
  end
  if spec.interval > 0 then
    -- An idle account has `burst` slots to spend at once.
    a.next = math.max(tonumber(next_at or 0), NOW - (spec.burst - 1) * spec.interval)
    local latest = NOW + spec.interval + spec.gap
    if a.next > latest and not books_ahead then
      -- Booked by stock workers, or while the rate was another: what comes in between has as good a claim to it.
      a.next = latest
      call('HSET', a.key, 'next', seconds(latest))
    end
    -- A little more than none, as times are rounded.
    local slots = a.next <= NOW and math.floor((NOW - a.next) / spec.interval + 0.001) + 1 or 0
    if slots == 0 then a.again = math.max(a.again or 0, a.next) end
    a.go = math.min(a.go, slots)
  end
  if spec.cap > 0 then
    a.day = math.floor((NOW + spec.offset) / 86400)
    a.sent = tonumber(day) == a.day and tonumber(sent) or 0
    if a.sent >= spec.cap then a.again = (a.day + 1) * 86400 - spec.offset end
    a.go = math.min(a.go, math.max(0, spec.cap - a.sent))
  end
  if a.stopped then a.go, a.again = 0, nil end
  return a
end

-- Spends one of the account's slots on `job_id`. Gives how it goes out.
local function spend(a, job_id)
  a.go = a.go - 1
  a.used = a.used + 1
  if not a.paused then return '' end
  call('HSET', a.key, 'probe', job_id)
  return 'probe'
end

-- Writes down what was spent, and when more may go.
local function settle(a, chance)
  if a.used == 0 or not a.spec then return end
  if a.spec.interval > 0 then
    a.next = a.next + a.used * (a.spec.interval + chance * a.spec.gap)
    call('HSET', a.key, 'next', seconds(a.next))
    if a.next > NOW then a.again = math.max(a.again or 0, a.next) end
  end
  if a.day then
    call('HSET', a.key, 'day', a.day, 'sent', a.sent + a.used)
    if a.sent + a.used >= a.spec.cap then a.again = (a.day + 1) * 86400 - a.spec.offset end
  end
end

local pairs_wait = nil

-- Until when the messenger has asked us to wait with this recipient; 0 when it has not.
local function pause_with(r)
  if pairs_wait == nil then pairs_wait = call('EXISTS', 'pr:pairs') == 1 end
  return pairs_wait and tonumber(call('GET', 'pr:not:' .. r.account .. ' ' .. r.uuid) or 0) or 0
end

-- Seconds between two for this recipient; 0: as they come.
local function pace_with(a, r)
  for _, pace in ipairs(a.spec.paces) do
    if string.sub(r.uuid, 1, #pace[1]) == pace[1] then return pace[2] end
  end
  return 0
end

-- Whether this recipient gets one now, where none waits for it and it has had none within the pace; then the turn is used.
local function uses_first_turn(r, pace)
  return call('SET', turn_key(r), seconds(NOW + pace), 'PX', in_ms(pace), 'NX')
end

-- Notes that one goes to this recipient, and calls the next.
local function use_turn(r, pace)
  if pace == 0 then return end
  local key = turn_key(r)
  local at = tonumber(call('GET', key) or 0) or 0
  -- Who goes a little late does not put off the next.
  at = (NOW - at < pace / 10 and at or NOW) + pace
  call('SET', key, seconds(at), 'PX', in_ms(at - NOW))
  if call('EXISTS', turns_key(r)) == 1 then
    call('PERSIST', key)
    call_next(r)
  end
end

-- When this recipient may get the next one (s).
local function free_at(r, pace)
  return math.max(pause_with(r), pace > 0 and tonumber(call('GET', turn_key(r)) or 0) or 0)
end

-- Seconds by which one overtakes what else waits for its recipient; none waits for ever.
local OVERTAKES_S = { h = 3600, d = 0, l = -3600 }

-- Puts it among those that wait for its recipient, who is free from `at` on: in the order in which they were first due,
-- whatever has come back meanwhile.
local function wait_turn(job_id, mid, idx, r, pace, at)
  local turns, id = turns_key(r), delivery_id(mid, idx)
  if not (r.turn and call('ZSCORE', turns, job_id)) then
    local due = tonumber(call('ZSCORE', LISTS[r.state], id) or NOW)
    local dues, of_all = unpack(call('HMGET', 'pr:m:' .. mid, 'dues', 'due'))
    if not dues then due = math.min(due, tonumber(of_all)) end
    call('ZADD', turns, seconds(due - OVERTAKES_S[r.queue]), job_id)
    r.turn = true
    save(mid, idx, r)
  end
  call('SET', turn_key(r), seconds(at))
  local before = call('ZRANK', turns, job_id)
  call('ZADD', LISTS[r.state], seconds(at + before * pace), id)
  call('HSET', 'rq:job:' .. job_id, 'status', 'scheduled')
  if before == 0 and at > NOW then call_next(r) end -- else whoever goes now does
end
