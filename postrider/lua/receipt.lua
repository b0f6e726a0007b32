-- Moves deliveries by what their messenger says later. What repeats, comes out of order or is of nobody changes nothing.
-- ARGV  1 account   2 seconds RQ lists what finished   3 what failed   4 park an early one for (s)
--       then per receipt: mark, the delivery's id or '', state letter, line, whether its address is dead (0, 1)
-- Gives a letter per receipt: `m` moved, `p` parked until its delivery is recorded, `n` no news.
local keep_s = { finished = tonumber(ARGV[2]), failed = tonumber(ARGV[3]) }
local stamp = rq_time(NOW)

local function park(name, letter, dead, line)
  local key = 'pr:early:' .. name
  call('RPUSH', key, letter .. dead .. ' ' .. line)
  call('LTRIM', key, -8, -1)
  call('EXPIRE', key, ARGV[4])
  call('SET', 'pr:early', 1, 'EX', ARGV[4])
end

-- RQ's books follow: an unknown one is in no list of what ended well, a failed one no longer.
local function book(job, queue, status, reason)
  local fields = { 'status', status, 'ended_at', stamp }
  if status == 'failed' then
    call('ZREM', 'rq:finished:' .. queue, job)
    fields[5], fields[6] = 'exc_info', reason
  else
    call('ZREM', 'rq:failed:' .. queue, job)
  end
  -- One field more than it had: its job was gone.
  if call('HSET', 'rq:job:' .. job, unpack(fields)) == #fields / 2 then write_job(job, queue, status, stamp) end
  call('ZADD', 'rq:' .. status .. ':' .. queue, seconds(NOW + keep_s[status]), job)
end

-- The one place where a receipt moves a delivery.
local function move(mid, idx, r, letter, line, dead)
  local was, id, job = r.state, delivery_id(mid, idx), job_id_of(mid, idx, r.alarm)
  local reason = cjson.decode(line)[3]
  if was == 'u' then disarm(mid, idx, r) end -- it is not sent again
  moves(mid, r, letter)
  r.deaths = nil
  save(mid, idx, r)
  log(mid, idx, line)
  tell(mid, idx, r, TOLD[letter], reason)
  call('ZREM', LISTS[was], id)
  call('ZADD', LISTS[letter], seconds(NOW), id)
  if was == 'u' or letter == 'f' then book(job, QUEUES[r.queue], SENT[letter] and 'finished' or 'failed', reason) end
  if letter == 'f' and dead == '1' then bury(r.account, r.uuid, reason) end
end

local gives = {}
for at = 5, #ARGV, 5 do
  local mark, key, letter, line, dead = unpack(ARGV, at, at + 4)
  local found, gave = recall(mark, keep_s.finished), 'n'
  local mid, idx, alarm = split(found or key)
  local r = mid and load(mid, idx)
  if r and r.account ~= ARGV[1] then mid, r = nil, nil end -- only its own account speaks of it
  if not r then
    if not found and letter ~= 't' then
      park(mark, letter, dead, line)
      gave = 'p'
    end
  elseif r.state == 'g' or r.state == 'r' then
    park(delivery_id(mid, idx), letter, dead, line)
    gave = 'p'
  else
    local news = RECEIPTS[r.state] and RECEIPTS[r.state][letter]
    -- That an earlier attempt failed says nothing of the last one.
    if letter == 'f' and (found and alarm ~= r.alarm or not found and r.state ~= 'u') then news = false end
    if news then
      if not found then remember(mark, job_id_of(mid, idx, r.alarm), keep_s.finished) end
      move(mid, idx, r, letter, line, dead)
      gave = 'm'
    end
  end
  gives[#gives + 1] = gave
end
flush()
return gives
