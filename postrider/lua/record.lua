-- Records how claims ended. Only who still holds the claim moves the delivery; a late one is kept as an attempt.
-- ARGV  1 worker, or '' when a stock RQ worker keeps RQ's books   2 seconds RQ lists what finished   3 what failed
--       4 seconds worked   5 the first wait after a refusal that names none (s)   then per claim: job, state letter, due in (s) or '', counts (0, 1), reason, attempt line,
--       moved to, signal, pause (s) or '', lone deaths or ''
-- The signal is what its account learns: `y` it answers, `n` it does not, `a` it pauses us, `r` it does so for this
-- recipient, `b` this one was handed back, '' nothing.
-- Gives a 1 or 0 per claim: moved, or came too late.
local worker = ARGV[1]
local own = worker ~= ''
local keep_s = { t = tonumber(ARGV[2]), f = tonumber(ARGV[3]), u = tonumber(ARGV[3]) }
local moved, sent, failed = {}, 0, 0
local stamp = rq_time(NOW)

local function log(mid, idx, line)
  local key = bucket('a', mid, idx)
  if call('HSETNX', key, idx, line) == 1 then return end
  local lines = call('HGET', key, idx)
  if string.sub(lines, -#line) == line then return end -- recorded before, and the answer was lost
  lines = lines .. '\n' .. line
  while #lines > MAX_LOG and string.find(lines, '\n') do lines = string.gsub(lines, '^[^\n]*\n', '', 1) end
  call('HSET', key, idx, lines)
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

local function pause(h, until_at, why)
  h.until_at, h.probe, h.fails = math.max(h.until_at or 0, until_at), false, 0
  call('HSET', h.key, 'until', seconds(h.until_at), 'why', why, 'opened', h.opened)
  call('HDEL', h.key, 'probe', 'fails', 'failed')
end

-- Tells the account what came of `job_id`. Gives until when its deliveries wait, or nil.
local function learn(r, job_id, id, signal, pause_s, why)
  local h = health_of(r.account)
  local probed = h.probe == job_id
  if signal == 'y' or signal == 'r' then
    if probed then
      call('HDEL', h.key, 'until', 'why', 'probe', 'opened', 'fails', 'failed')
      call('PUBLISH', 'pr:wake', seconds(NOW))
      health[r.account] = nil
    elseif h.fails > 0 then
      h.fails = 0
      call('HDEL', h.key, 'fails', 'failed')
    end
  elseif signal == 'b' then
    if probed then call('HDEL', h.key, 'probe') end
  elseif signal == 'n' then
    if probed then
      h.opened = h.opened + 1
      pause(h, NOW + doubling(1, h.opened, BREAK_MAX_S), why)
    elseif not h.until_at and h.failed ~= id then
      h.fails, h.failed = h.fails + 1, id
      call('HSET', h.key, 'fails', h.fails, 'failed', id)
      if h.fails >= BREAKS_AT then
        h.opened = 1
        pause(h, NOW + 1, why)
      end
    end
    return probed and h.until_at
  elseif signal == 'a' then
    if pause_s ~= '' then
      pause(h, NOW + tonumber(pause_s), why)
    elseif probed or not h.until_at then
      h.opened = h.opened + 1
      pause(h, NOW + doubling(tonumber(ARGV[5]), h.opened, REFUSED_MAX_S), why)
    end
    return h.until_at
  end
  if signal == 'r' then
    local ms = math.ceil(tonumber(pause_s) * 1000) + 1
    call('SET', 'pr:not:' .. r.account .. ' ' .. r.uuid, seconds(NOW + tonumber(pause_s)), 'PX', ms)
    call('SET', 'pr:pairs', 1, 'PX', math.max(ms, call('PTTL', 'pr:pairs')))
  end
end

local TOLD = { t = 'sent', f = 'failed', u = 'unknown' }

local jobs = {}
for at = 6, #ARGV, 10 do jobs[#jobs + 1] = ARGV[at] end
prefetch(jobs)
for at = 6, #ARGV, 10 do
  local job_id, state, due, counts, reason, line, moved_to, signal, pause_s, deaths = unpack(ARGV, at, at + 9)
  local mid, idx, alarm = split(job_id)
  local r = load(mid, idx)
  local holds = r and r.state == 'g' and r.alarm == alarm
  -- Its lease ran out, so it is unknown, to be sent again or (same alarm) on hold: a late yes still settles it.
  local settles = r and r.state == 'u' and (r.alarm == alarm + 1 or r.alarm == alarm) and state == 't'
  if r and line ~= '' then log(mid, idx, line) end
  if r and own then later('ZREM', 'rq:wip:' .. QUEUES[r.queue], job_id .. ':' .. worker) end
  moved[#moved + 1] = (holds or settles) and 1 or 0
  if holds or settles then
    local id = delivery_id(mid, idx)
    local waits_until = signal ~= '' and learn(r, job_id, id, signal, pause_s, reason)
    r.state = state
    r.deaths = tonumber(deaths)
    if counts == '1' then r.attempts = r.attempts + 1 end
    if moved_to ~= '' then call('HSET', 'pr:moved', r.account .. ' ' .. r.uuid, moved_to) end
    if due == '' then
      local job, queue = job_id, QUEUES[r.queue]
      if settles then
        job = disarm(mid, idx, r)
        call('ZREM', 'rq:failed:' .. queue, job)
      else
        later('ZREM', 'pr:leases', job)
      end
      later('HSET', bucket('d', mid, idx), idx, as_text(r))
      later('ZADD', RESTS[state], seconds(NOW), id)
      if r.told then tell(mid, idx, r, TOLD[state], reason, line ~= '' and cjson.decode(line)[5]) end
      if own then
        local status = state == 't' and 'finished' or 'failed'
        local fields = { 'status', status, 'ended_at', stamp }
        if reason ~= '' then
          fields[5], fields[6] = 'exc_info', reason
        end
        -- One field more than it had: its job was gone.
        if call('HSET', 'rq:job:' .. job, unpack(fields)) == #fields / 2 then write_job(job, queue, status, stamp) end
        later('ZADD', 'rq:' .. status .. ':' .. queue, seconds(NOW + keep_s[state]), job)
      end
      if state == 't' then sent = sent + 1 else failed = failed + 1 end
    else
      if own then call('DEL', 'rq:job:' .. job_id) end
      local due_at = math.max(NOW + tonumber(due), waits_until or 0)
      rearm(mid, idx, r, due_at)
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
