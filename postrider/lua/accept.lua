-- Accepts (a part of) a message. A small one takes one call; a large one WRITEs its parts, then COMMITs, then ARMs them.
-- ARGV  1 phases: 1 write, 2 commit, 4 arm; 8: an occurrence of the schedule that the last argument names   2 message
--       3 commit no later than (s)   4 due (s)   5 first index   6 count
--       7 number of message fields, then those (name, value, ...), then, to write, `count` records; in a message with the
--       field `dues` each behind its own due time and a space
-- Gives `ok`, or `late`: the deadline is over (nothing is committed then), or the sweep has taken the message away;
-- `gone`: a file that it needs is no longer there;
-- `over`, and changes nothing: the schedule has accepted this occurrence already, or no longer plans it; or the limit of its
-- owner that it is over, and what that is: `recipients N`, `waiting N`.
local phases, mid, deadline, due = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
local first, count, fields = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local message = 'pr:m:' .. mid
local writes, commits, arms = phases % 2 >= 1, phases % 4 >= 2, phases % 8 >= 4

local schedule = phases >= 8 and (writes or commits) and ARGV[#ARGV]

if (writes or commits) and NOW > deadline then return 'late' end
if schedule then
  local planned, ready = unpack(call('HMGET', 'pr:s:' .. schedule, 'message', 'ready'))
  if planned ~= mid or ready == '1' then return 'over' end
end

local mark = ''

-- Takes all of the message's deliveries from what its owner may have waiting. Gives the limit that it is over, or nil.
local function take_from_quota(owner, total)
  local recipients, waiting = unpack(call('HMGET', 'pr:client:' .. owner, 'recipients', 'waiting'))
  if recipients and total > tonumber(recipients) then return 'recipients ' .. recipients end
  if not waiting then return nil end
  local key = 'pr:waits:' .. owner
  if tonumber(call('GET', key) or 0) + total > tonumber(waiting) then return 'waiting ' .. waiting end
  call('INCRBY', key, total)
  call('HSET', message, 'quota', 1)
  mark = '*'
  return nil
end

if writes then
  if fields > 0 then
    local of = {}
    for at = 8, 7 + fields, 2 do of[ARGV[at]] = ARGV[at + 1] end
    local over = of.owner and take_from_quota(of.owner, tonumber(of.total))
    if over then return over end
    call('HSET', message, unpack(ARGV, 8, 7 + fields))
    if not commits then call('HSET', message, 'written', count) end
    if not commits then call('ZADD', 'pr:accepting', 'GT', seconds(deadline), mid) end
  else
    local total, quota = unpack(call('HMGET', message, 'total', 'quota'))
    if not total then return 'late' end
    if quota then mark = '*' end
    call('HSET', message, 'written', first + count)
  end
  local stamp = rq_time(NOW, true)
  local at, own_dues = 7 + fields, call('HEXISTS', message, 'dues') == 1
  for i = 0, count - 1 do
    local idx, record = first + i, ARGV[at + 1 + i]
    if own_dues then
      local own_due
      own_due, record = string.match(record, '^(%S+) (.*)$')
      call('HSET', bucket('w', mid, idx), idx, own_due)
    end
    if mark ~= '' then record = string.gsub(record, ' ', mark .. ' ', 1) end
    call('HSET', bucket('d', mid, idx), idx, record)
    write_job(delivery_id(mid, idx), QUEUES[string.sub(record, 2, 2)], 'scheduled', stamp)
    local uuid = string.match(record, '^%S+ %S+ (.*)$')
    call('ZADD', recipients_bucket(uuid), 0, delivery_id(mid, idx))
  end
end

if commits then
  local total, expires, zoned, files = unpack(call('HMGET', message, 'total', 'expires', 'zoned', 'file_ids'))
  if not total then return 'late' end
  if files then
    if not files_are_there(files) then
      call('ZADD', 'pr:accepting', 0, mid) -- the sweep removes what was written
      return 'gone'
    end
    hold_files(files, mid)
  end
  call('HSET', message, 'committed', 1)
  if not writes then call('HDEL', message, 'written') end
  if schedule then
    local key = 'pr:s:' .. schedule
    call('HSET', key, 'ready', 1)
    call('HINCRBY', key, 'made', 1)
    call('HINCRBY', key, 'v', 1)
    call('ZADD', 'pr:schedules:due', call('HGET', key, 'next'), schedule)
  end
  for _, list in ipairs(lists_of(message)) do call('ZADD', list, 0, mid) end
  if expires then call('ZADD', 'pr:expiring', expires, mid) end
  if zoned then call('PERSIST', 'pr:z:' .. mid) end
  call('HINCRBY', 'pr:ledger', hour_of(mid) .. ':a', total)
end

if arms then
  if not commits and call('HGET', message, 'armed') ~= ARGV[5] then return 'ok' end -- somebody else rolled it forward
  local scheduled, changed = {}, not commits and call('HEXISTS', message, 'changed') == 1
  local own_dues = call('HEXISTS', message, 'dues') == 1
  for i = first, first + count - 1 do
    -- What was stopped before it was armed stays so.
    local r = changed and load(mid, i)
    if not changed or (r and r.state == 's' and r.alarm == 0) then
      scheduled[#scheduled + 1] = own_dues and call('HGET', bucket('w', mid, i), i) or due
      scheduled[#scheduled + 1] = delivery_id(mid, i)
    end
    if own_dues then later('HDEL', bucket('w', mid, i), i) end
  end
  flush()
  if #scheduled > 0 then
    call('ZADD', SCHEDULE, unpack(scheduled))
    call('ZADD', 'pr:in:scheduled', unpack(scheduled))
  end
  if not commits then
    local total = tonumber(call('HGET', message, 'total'))
    call('HSET', message, 'armed', first + count)
    if first + count >= total then
      call('ZREM', 'pr:accepting', mid)
      call('HDEL', message, 'armed')
    end
  end
  call('PUBLISH', 'pr:wake', due)
end
return 'ok'
