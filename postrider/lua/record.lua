-- Records how claims ended. Only who still holds the claim moves the delivery; a late one is kept as an attempt.
-- ARGV  1 worker, or '' when a stock RQ worker keeps RQ's books   2 seconds RQ lists what finished   3 what failed
--       4 seconds worked   5 the first wait after a refusal that names none (s)   then per claim: job, state letter, due in (s) or '', counts (0, 1), reason, attempt line,
--       moved to, signal, pause (s) or '', lone deaths or '', the mark its receipts will bear or '', whether its address
--       is dead (0, 1)
-- The signal is what its account learns: `y` it answers, `n` it does not, `a` it pauses us, `x` it refuses us
-- until somebody mends that, `r` it pauses us for this recipient, `b` this one was handed back,
-- `w` the same and none of its account's day is used up, '' nothing.
-- Gives a 1 or 0 per claim: moved, or came too late.
local worker = ARGV[1]
local own = worker ~= ''
local keep_s = { finished = tonumber(ARGV[2]), failed = tonumber(ARGV[3]) }
local now_s, until_s = seconds(NOW), { finished = seconds(NOW + keep_s.finished), failed = seconds(NOW + keep_s.failed) }
local moved, sent, failed = {}, 0, 0
local stamp = rq_time(NOW)

local any_early = call('EXISTS', 'pr:early') == 1

-- Lets the receipts speak that came before this one was recorded. A lost answer, or a later attempt that went wrong, does
-- not outweigh that the messenger has it.
local function hear_early(mid, idx, r, name, state)
  for _, early in ipairs(call('LRANGE', 'pr:early:' .. name, 0, -1)) do
    local letter, dead, line = string.match(early, '^(%a)(%d) (.*)$')
    if SENT[letter] and not SENT[state] and state ~= 'u' then state = 't' end
    if RECEIPTS[state] and RECEIPTS[state][letter] then
      state = letter
      log(mid, idx, line)
      if letter == 'f' and dead == '1' then bury(r.account, r.uuid, cjson.decode(line)[3]) end
    end
  end
  call('DEL', 'pr:early:' .. name)
  return state
end

local health = {} -- account -> its fields that matter here, read once

local function health_of(name)
  local h = health[name]
  if not h then
    local key = 'pr:account:' .. name
    local until_at, probe, opened, fails, failed = unpack(call('HMGET', key, 'until', 'probe', 'opened', 'fails', 'failed'))
    h = { key = key, until_at = tonumber(until_at), probe = probe, opened = tonumber(opened) or 0,
      fails = tonumber(fails) or 0, failed = failed }
    health[name] = h
  end
  return h
end

local function pause(h, until_at, why, kind)
  h.until_at, h.probe, h.fails = math.max(h.until_at or 0, until_at), false, 0
  call('HSET', h.key, 'until', seconds(h.until_at), 'why', why, 'kind', kind, 'opened', h.opened)
  call('HDEL', h.key, 'probe', 'fails', 'failed')
end

-- Tells the account what came of `job_id`. Gives until when its deliveries wait, or nil.
local function learn(r, job_id, id, signal, pause_s, why)
  local h = health_of(r.account)
  local probed = h.probe == job_id
  if signal == 'y' or signal == 'r' then
    if probed then
      call('HDEL', h.key, 'until', 'why', 'kind', 'probe', 'opened', 'fails', 'failed')
      call('PUBLISH', 'pr:wake', seconds(NOW))
      health[r.account] = nil
    elseif h.fails > 0 then
      h.fails = 0
      call('HDEL', h.key, 'fails', 'failed')
    end
  elseif signal == 'b' or signal == 'w' then
    if probed then call('HDEL', h.key, 'probe') end
    if signal == 'w' and tonumber(call('HGET', h.key, 'sent') or 0) > 0 then call('HINCRBY', h.key, 'sent', -1) end
  elseif signal == 'n' then
    if probed then
      h.opened = h.opened + 1
      pause(h, NOW + doubling(1, h.opened, BREAK_MAX_S), why, signal)
    elseif not h.until_at and h.failed ~= id then
      h.fails, h.failed = h.fails + 1, id
      call('HSET', h.key, 'fails', h.fails, 'failed', id)
      if h.fails >= BREAKS_AT then
        h.opened = 1
        pause(h, NOW + 1, why, signal)
      end
    end
    return probed and h.until_at
  elseif signal == 'a' or signal == 'x' then
    if pause_s ~= '' then
      pause(h, NOW + tonumber(pause_s), why, signal)
    elseif probed or not h.until_at then
      h.opened = h.opened + 1
      pause(h, NOW + doubling(tonumber(ARGV[5]), h.opened, REFUSED_MAX_S), why, signal)
    end
    return h.until_at
  end
  if signal == 'r' then
    local ms = math.ceil(tonumber(pause_s) * 1000) + 1
    call('SET', 'pr:not:' .. r.account .. ' ' .. r.uuid, seconds(NOW + tonumber(pause_s)), 'PX', ms)
    call('SET', 'pr:pairs', 1, 'PX', math.max(ms, call('PTTL', 'pr:pairs')))
  end
end

local jobs = {}
for at = 6, #ARGV, 12 do jobs[#jobs + 1] = ARGV[at] end
prefetch(jobs)
for at = 6, #ARGV, 12 do
  local job_id, state, due, counts, reason, line, moved_to, signal, pause_s, deaths, mark, dead = unpack(ARGV, at, at + 11)
  local mid, idx, alarm = split(job_id)
  local r = load(mid, idx)
  local holds = r and r.state == 'g' and r.alarm == alarm
  -- Its lease ran out, so it is unknown, to be sent again or (same alarm) on hold: a late yes still settles it.
  local settles = r and r.state == 'u' and (r.alarm == alarm + 1 or r.alarm == alarm) and state == 't'
  if r and line ~= '' then log(mid, idx, line) end
  if r and mark ~= '' then remember(mark, settles and job_id_of(mid, idx, r.alarm) or job_id, keep_s.finished) end
  if r and own then later('ZREM', 'rq:wip:' .. QUEUES[r.queue], job_id .. ':' .. worker) end
  moved[#moved + 1] = (holds or settles) and 1 or 0
  if holds or settles then
    local id = delivery_id(mid, idx)
    local waits_until = signal ~= '' and learn(r, job_id, id, signal, pause_s, reason)
    r.deaths = tonumber(deaths)
    if counts == '1' then r.attempts = r.attempts + 1 end
    if any_early then
      local heard = mark == '' and state or hear_early(mid, idx, r, mark, state)
      heard = hear_early(mid, idx, r, id, heard)
      if heard ~= state then state, due = heard, '' end
    end
    if dead == '1' and state == 'f' then bury(r.account, r.uuid, reason) end
    if state == 'f' and reason == 'partial' then call('HSET', 'pr:m:' .. mid, 'partial', 1) end
    if moved_to ~= '' then call('HSET', 'pr:moved', r.account .. ' ' .. r.uuid, moved_to) end
    if due == '' then
      local job, queue = job_id, QUEUES[r.queue]
      if settles then
        flush() -- its other attempt may stand in this batch, and have put it on hold
        job = disarm(mid, idx, r)
        call('ZREM', 'rq:failed:' .. queue, job)
      else
        later('ZREM', 'pr:leases', job)
      end
      moves(mid, r, state)
      later('HSET', bucket('d', mid, idx), idx, as_text(r))
      later('ZADD', state == 'u' and HELD or LISTS[state], now_s, id)
      if r.told then tell(mid, idx, r, TOLD[state], reason, line ~= '' and cjson.decode(line)[5]) end
      if own then
        local status = SENT[state] and 'finished' or 'failed'
        local fields = { 'status', status, 'ended_at', stamp }
        if reason ~= '' then
          fields[5], fields[6] = 'exc_info', reason
        end
        -- One field more than it had: its job was gone.
        if call('HSET', 'rq:job:' .. job, unpack(fields)) == #fields / 2 then write_job(job, queue, status, stamp) end
        later('ZADD', 'rq:' .. status .. ':' .. queue, until_s[status], job)
      end
      if SENT[state] then sent = sent + 1 else failed = failed + 1 end
    else
      if own then call('DEL', 'rq:job:' .. job_id) end
      local due_at = math.max(NOW + tonumber(due), waits_until or 0)
      rearm(mid, idx, r, state, due_at)
      call('PUBLISH', 'pr:wake', seconds(due_at))
    end
  end
end
flush()
local key = 'rq:worker:' .. worker
if own and sent + failed > 0 and call('EXISTS', key) == 1 then
  call('HINCRBY', key, 'successful_job_count', sent)
  call('HINCRBY', key, 'failed_job_count', failed)
  call('HINCRBYFLOAT', key, 'total_working_time', ARGV[4])
end
return moved
