-- Records how claims ended. Only who still holds the claim moves the delivery; a late one is kept as an attempt.
-- ARGV  1 worker, or '' when a stock RQ worker keeps RQ's books   2 seconds RQ lists what finished   3 what failed
--       4 seconds worked   then per claim: job, state letter, due in (s) or '', counts (0, 1), reason, attempt line,
--       moved to
-- Gives a 1 or 0 per claim: moved, or came too late.
local worker = ARGV[1]
local own = worker ~= ''
local keep_s = { t = tonumber(ARGV[2]), f = tonumber(ARGV[3]), u = tonumber(ARGV[3]) }
local moved, sent, failed = {}, 0, 0
local stamp = rq_time(NOW)

local function log(mid, idx, line)
  local key = bucket('a', mid, idx)
  local lines = call('HGET', key, idx)
  lines = lines and lines .. '\n' .. line or line
  while #lines > MAX_LOG and string.find(lines, '\n') do lines = string.gsub(lines, '^[^\n]*\n', '', 1) end
  call('HSET', key, idx, lines)
end

for at = 5, #ARGV, 7 do
  local job_id, state, due, counts, reason, line, moved_to = unpack(ARGV, at, at + 6)
  local mid, idx, alarm = split(job_id)
  local r = load(mid, idx)
  local holds = r and r.state == 'g' and r.alarm == alarm
  -- Its lease ran out, so it is unknown, to be sent again or (same alarm) on hold: a late yes still settles it.
  local settles = r and r.state == 'u' and (r.alarm == alarm + 1 or r.alarm == alarm) and state == 't'
  if r and line ~= '' then log(mid, idx, line) end
  if r and own then call('ZREM', 'rq:wip:' .. QUEUES[r.queue], job_id .. ':' .. worker) end
  moved[#moved + 1] = (holds or settles) and 1 or 0
  if holds or settles then
    r.state = state
    if counts == '1' then r.attempts = r.attempts + 1 end
    if moved_to ~= '' then call('HSET', 'pr:moved', r.account .. ' ' .. r.uuid, moved_to) end
    if due == '' then
      local job, queue = disarm(mid, idx, r), QUEUES[r.queue]
      save(mid, idx, r)
      call('ZADD', RESTS[state], seconds(NOW), delivery_id(mid, idx))
      if own then
        local status = state == 't' and 'finished' or 'failed'
        call('ZREM', 'rq:failed:' .. queue, job)
        if call('EXISTS', 'rq:job:' .. job) == 0 then write_job(job, queue, status, stamp) end
        call('HSET', 'rq:job:' .. job, 'status', status, 'ended_at', stamp, 'exc_info', reason)
        call('ZADD', 'rq:' .. status .. ':' .. queue, seconds(NOW + keep_s[state]), job)
      end
      if state == 't' then sent = sent + 1 else failed = failed + 1 end
    else
      if own then call('DEL', 'rq:job:' .. job_id) end
      rearm(mid, idx, r, NOW + tonumber(due))
      call('PUBLISH', 'pr:wake', seconds(NOW + tonumber(due)))
    end
  end
end
local key = 'rq:worker:' .. worker
if own and sent + failed > 0 and call('EXISTS', key) == 1 then
  call('HINCRBY', key, 'successful_job_count', sent)
  call('HINCRBY', key, 'failed_job_count', failed)
  call('HINCRBYFLOAT', key, 'total_working_time', ARGV[4])
end
return moved
