-- Claims what is due and may go now, under a lease: first what waits in lines for its account, then RQ's queues, then what
-- has come due in rq-scheduler's set. What is claimed at once never touches a queue; what is left over goes there.
-- ARGV  1 worker   2 nonce: the same again after a lost answer gives the same claims   3 lease (s)   4 look at most at
--       5 how many claims it still works on   6 1 if it may take one to send alone   7 a random number, 0 to 1
--       8 JSON: account -> what it may do and how many places are free for it
-- Gives {now, when to look again or '', 1 if more waits for nothing but a place, rows, messages}.
-- Of every ten picks high gets 6, default 3, low 1, so that low never starves; what one leaves, the next takes.
local worker, nonce, most = ARGV[1], ARGV[2], tonumber(ARGV[4])
local lease_until = seconds(NOW + tonumber(ARGV[3]))
-- RQ's own cleaning must never find it lapsed: ending a lease is the sweep's business.
local in_progress_until = seconds(NOW + tonumber(ARGV[3]) + 86400)
local LETTERS = { 'h', 'd', 'l' }
local TURNS = { 'h', 'h', 'd', 'h', 'h', 'd', 'h', 'd', 'h', 'l' }
local PART = 100
local AHEAD = 200 -- how many more of those that are due are put into RQ's queues than could go now
local IN_QUEUES = 1000 -- of one account that may not go now: the rest waits in its line, where nobody else looks through it
local WIPS = { h = 'rq:wip:high', d = 'rq:wip:default', l = 'rq:wip:low' }
specs = cjson.decode(ARGV[8])

-- First a write that a full Redis refuses: what cannot be recorded must not be claimed.
call('SET', 'pr:served', seconds(NOW))
local turn = tonumber(call('GET', 'pr:turn') or 0)

local rows, jobs, mids, looked = {}, {}, {}, 0

local again = string.match(call('GET', 'pr:claimed:' .. worker) or '', '^' .. nonce .. ' (.*)$')
if again then
  for job_id in string.gmatch(again, '%S+') do
    local mid, idx, alarm = split(job_id)
    local r = load(mid, idx)
    if r and r.state == 'g' and r.alarm == alarm then
      local probe = call('HGET', 'pr:account:' .. r.account, 'probe') == job_id
      call('ZADD', 'pr:leases', lease_until, job_id)
      rows[#rows + 1] = row(job_id, r, probe and 'probe' or r.deaths and 'alone' or '')
      mids[mid] = true
    end
  end
  return { seconds(NOW), seconds(NOW), 0, rows, messages(mids) }
end

-- How many jobs stand in RQ's queues, and of which accounts; a stock rqscheduler puts some there that we have not counted.
local queued, moved, uncounted, length = {}, {}, 0, {}
for q, name in pairs(QUEUES) do
  length[q] = call('LLEN', 'rq:queue:' .. name)
  uncounted = uncounted + length[q]
end
local counts = call('HGETALL', 'pr:queued')
if uncounted == 0 and #counts > 0 then
  call('DEL', 'pr:queued') -- a stock worker takes without counting
  counts = {}
end
for i = 1, #counts, 2 do
  queued[counts[i]] = tonumber(counts[i + 1])
  uncounted = uncounted - queued[counts[i]]
end

local lines = {} -- account -> letter -> true
for _, line in ipairs(call('SMEMBERS', 'pr:lines')) do
  local q, name = string.match(line, '^(%a) (.+)$')
  lines[name] = lines[name] or {}
  lines[name][q] = true
end

-- The key of the line in which what is due for an account waits for it; made known to all when it is a new one.
local function open_line(q, name)
  local line = q .. ' ' .. name
  if not lines[name] then lines[name] = {} end
  if not lines[name][q] then
    call('SADD', 'pr:lines', line)
    lines[name][q] = true
  end
  return 'pr:line:' .. line
end

local function goes(job_id, mid, idx, r, how)
  rows[#rows + 1] = take(job_id, mid, idx, r, lease_until, how, account(r.account).held)
  jobs[#jobs + 1] = job_id
  mids[mid] = true
  later('ZADD', WIPS[r.queue], in_progress_until, job_id .. ':' .. worker)
end

local newly_alone = false
local rooms = {} -- account, message -> how many more receivers fit into the call that was begun

-- How many of this message's recipients one call can reach: a long text leaves room for few.
local function receivers(a, mid)
  if a.spec.call == 1 then return 1 end
  return math.min(a.spec.call, tonumber(call('HGET', 'pr:m:' .. mid, 'receivers') or a.spec.call))
end

-- Puts what may not go with the others where it waits: that of a stopped client, and what goes by itself.
local function set_aside(job_id, since, mid, idx, r)
  local client = stopped_client(mid)
  if not client and not r.deaths then return false end
  if r.turn then
    leave_turns(job_id, r)
    save(mid, idx, r)
  end
  if client then
    call('ZADD', 'pr:stopped:' .. client, seconds(since), job_id)
    call('SADD', 'pr:stopped', client)
    call('HSET', 'rq:job:' .. job_id, 'status', 'deferred')
  else
    call('ZADD', 'pr:alone', seconds(since), job_id)
    newly_alone = true
  end
  return true
end

-- Which delivery goes to this one's recipient now: this one, or who was there before it; nil when that is not yet.
local function whose_turn(a, job_id, mid, idx, r)
  local pace, paused = pace_with(a, r), pause_with(r) > NOW
  if pace == 0 then
    leave_turns(job_id, r) -- of a pace that was
    if not paused then return job_id, mid, idx, r end
    save(mid, idx, r)
    look_again(job_id, mid, idx, r, pause_with(r))
    return nil
  end
  if not paused and not r.turn and uses_first_turn(r, pace) then return job_id, mid, idx, r end
  local at = free_at(r, pace)
  wait_turn(job_id, mid, idx, r, pace, at)
  if at > NOW then return nil end
  while true do
    local first = call('ZPOPMIN', turns_key(r))[1]
    local its_mid, its_idx, its = sendable(first)
    if its then
      its.turn = false
      call('ZREM', SCHEDULE, first)
      call('ZREM', 'pr:line:' .. its.queue .. ' ' .. its.account, first)
      if not set_aside(first, NOW, its_mid, its_idx, its) then
        use_turn(its, pace)
        its.turn = true -- it has waited: see `take`
        return first, its_mid, its_idx, its
      end
      save(its_mid, its_idx, its)
    end
  end
end

-- Lets one go, or puts it where it waits. False when its account may not send now.
local function admit(job_id, since, mid, idx, r)
  looked = looked + 1
  if set_aside(job_id, since, mid, idx, r) then return true end
  local a = account(r.account)
  if a.go == 0 and (rooms[r.account .. ' ' .. mid] or 0) == 0 then
    call('ZADD', open_line(r.queue, r.account), seconds(since), job_id)
    call('HSET', 'rq:job:' .. job_id, 'status', 'deferred')
    return false
  end
  job_id, mid, idx, r = whose_turn(a, job_id, mid, idx, r)
  if not job_id then return true end
  local batch, how = r.account .. ' ' .. mid, ''
  local room = rooms[batch] or 0
  if room > 0 then
    rooms[batch] = room - 1
  else
    how = spend(a, job_id)
    if how == '' then rooms[batch] = receivers(a, mid) - 1 end
  end
  goes(job_id, mid, idx, r, how)
  return true
end

-- One whose worker died goes by itself, one per claim.
local function one_alone()
  local first, stay = call('ZRANGE', 'pr:alone', 0, PART - 1), {}
  prefetch(first)
  for _, job_id in ipairs(first) do
    local mid, idx, r = sendable(job_id)
    local a = r and account(r.account)
    if not r or not r.deaths then
      call('ZREM', 'pr:alone', job_id)
    elseif a.go > 0 and not stopped_client(mid) then
      call('ZREM', 'pr:alone', job_id)
      -- There are few of them: they wait for no turn, but others do for them.
      if pause_with(r) <= NOW then
        use_turn(r, pace_with(a, r))
        local how = spend(a, job_id)
        goes(job_id, mid, idx, r, how == '' and 'alone' or how)
        return true
      end
      look_again(job_id, mid, idx, r, pause_with(r))
    else
      stay[#stay + 1] = seconds(NOW)
      stay[#stay + 1] = job_id
    end
  end
  -- Their accounts may not send now: next time others are looked at.
  if #first == PART and #stay > 0 then call('ZADD', 'pr:alone', unpack(stay)) end
  return false
end

local function pop_line(name, q)
  if not lines[name][q] then return nil end
  local popped = call('ZPOPMIN', 'pr:line:' .. q .. ' ' .. name)
  if popped[1] then return popped end
  lines[name][q] = nil
  call('SREM', 'pr:lines', q .. ' ' .. name)
end

local function serve_line(name, stop)
  local a, room = account(name), true -- only who may go is served
  local ahead = math.min(a.go * a.spec.call, stop - looked, PART)
  for q in pairs(lines[name]) do prefetch(call('ZRANGE', 'pr:line:' .. q .. ' ' .. name, 0, ahead - 1)) end
  -- One turn for all lines would give accounts that send in step the same letter each time.
  local line_turn = math.floor(tonumber(ARGV[7]) * #TURNS)
  while room and looked < stop do
    line_turn = line_turn % #TURNS + 1
    local popped = pop_line(name, TURNS[line_turn])
    for _, q in ipairs(LETTERS) do popped = popped or pop_line(name, q) end
    if not popped then
      lines[name] = nil
      return
    end
    local mid, idx, r = sendable(popped[1])
    if r then
      room = admit(popped[1], tonumber(popped[2]), mid, idx, r)
    else
      looked = looked + 1
    end
  end
end

local fresh, taken = { h = {}, d = {}, l = {} }, { h = 0, d = 0, l = 0 } -- {job, account} of each that has come due

-- RQ's queues are read in parts; what of a part is not taken goes back to where it was.
local part, at = { h = {}, d = {}, l = {} }, { h = 0, d = 0, l = 0 }

local function pick(q)
  at[q] = at[q] + 1
  if not part[q][at[q]] and length[q] > 0 then
    part[q], at[q] = call('LPOP', 'rq:queue:' .. QUEUES[q], PART) or {}, 1
    length[q] = length[q] - #part[q]
    prefetch(part[q])
  end
  if part[q][at[q]] then return part[q][at[q]], false end
  taken[q] = taken[q] + 1
  local come = fresh[q][taken[q]]
  return come and come[1], true
end

local function put_back(q)
  local rest = {}
  for i = #part[q], at[q] + 1, -1 do rest[#rest + 1] = part[q][i] end
  if #rest > 0 then call('LPUSH', 'rq:queue:' .. QUEUES[q], unpack(rest)) end
  length[q] = length[q] + #rest
end

-- Whether anything in the queues could still go, or has a line to wait in, where its priority counts.
local function wanted()
  for name in pairs(specs) do
    local a = account(name)
    if a.go > 0 and uncounted ~= 0 then return true end
    if (a.go > 0 or lines[name]) and (queued[name] or 0) > 0 then return true end
  end
  for batch, room in pairs(rooms) do
    if room > 0 and (queued[string.match(batch, '^%S+')] or 0) > 0 then return true end
  end
  return false
end

local only_one = ARGV[6] == '1' and one_alone()
if not only_one then
  local served = {}
  for name in pairs(lines) do
    if specs[name] and account(name).go > 0 then served[#served + 1] = name end
  end
  -- Broadcasts take hundreds at once: each line gets its share, and so do the queues.
  local share = math.max(1, math.floor(most / (#served + 1)))
  for _, name in ipairs(served) do
    if looked < most then serve_line(name, looked + share) end
  end
  -- A great many that are due at once come to the queues in parts: who could send waits for none but the first.
  local come, need = 0, AHEAD
  for name in pairs(specs) do need = need + account(name).go * specs[name].call end
  repeat
    local due = call('ZRANGE', SCHEDULE, '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, math.min(most - come, need))
    if #due > 0 then call('ZREM', SCHEDULE, unpack(due)) end
    prefetch(due)
    for _, job_id in ipairs(due) do
      local q, name = glance(job_id)
      local a = q and account(name)
      if not q then
        sendable(job_id) -- which puts it away
      elseif a.spec and a.go == 0 and (lines[name] or a.again or a.paused or a.stopped or (queued[name] or 0) >= IN_QUEUES) then
        later('ZADD', open_line(q, name), seconds(NOW), job_id)
        call('HSET', 'rq:job:' .. job_id, 'status', 'deferred')
      else
        fresh[q][#fresh[q] + 1] = { job_id, name }
        queued[name] = (queued[name] or 0) + 1
        if a.go > 0 then need = need - 1 end
      end
    end
    come = come + #due
  until #due == 0 or come == most or need <= 0
  while looked < most and wanted() do
    turn = turn % #TURNS + 1
    local job_id, is_fresh = pick(TURNS[turn])
    for _, q in ipairs(LETTERS) do
      if not job_id then job_id, is_fresh = pick(q) end
    end
    if not job_id then break end
    local mid, idx, r = sendable(job_id)
    if r then
      if not is_fresh then moved[r.account] = (moved[r.account] or 0) - 1 end
      queued[r.account] = (queued[r.account] or 0) - 1
      -- What has come later may stand in its line already.
      local since = not is_fresh and lines[r.account] and tonumber(call('ZSCORE', LISTS[r.state], delivery_id(mid, idx)))
      admit(job_id, since or NOW, mid, idx, r)
    else
      looked = looked + 1
    end
  end
  if #rows == 0 and newly_alone and ARGV[6] == '1' then only_one = one_alone() end
end

local stamp = rq_time(NOW)
flush()
for _, job_id in ipairs(jobs) do
  call('HSET', 'rq:job:' .. job_id, 'status', 'started', 'started_at', stamp, 'worker_name', worker)
end
if #jobs > 0 then
  call('SET', 'pr:turn', turn)
  call('SET', 'pr:claimed:' .. worker, nonce .. ' ' .. table.concat(jobs, ' '), 'EX', 60)
end
local key, busy = 'rq:worker:' .. worker, #rows + tonumber(ARGV[5]) > 0
if call('EXISTS', key) == 1 then
  call('HSET', key, 'state', busy and 'busy' or 'idle')
  if #jobs > 0 then call('HSET', key, 'current_job', jobs[#jobs]) end
  if not busy then call('HDEL', key, 'current_job') end
end

local left = 0
for q, name in pairs(QUEUES) do
  put_back(q)
  local rest = {}
  for i = taken[q] + 1, #fresh[q] do
    local job_id, name = unpack(fresh[q][i])
    rest[#rest + 1] = job_id
    moved[name] = (moved[name] or 0) + 1
    call('HSET', 'rq:job:' .. job_id, 'status', 'queued', 'enqueued_at', stamp)
  end
  if #rest > 0 then call('RPUSH', 'rq:queue:' .. name, unpack(rest)) end
  left = left + length[q] + #rest
end
for name, by in pairs(moved) do call('HINCRBY', 'pr:queued', name, by) end

-- When to look again: at the next due one; for what waits, when its account may send again.
local next_look = tonumber(call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')[2])
local more = ARGV[6] == '0' and call('EXISTS', 'pr:alone') or 0
if only_one or newly_alone and ARGV[6] == '1' then next_look = NOW end
for name in pairs(specs) do
  local a = account(name)
  settle(a, tonumber(ARGV[7]))
  if lines[name] or (left > 0 and (uncounted ~= 0 or (queued[name] or 0) > 0)) then
    if a.go > 0 then
      next_look = NOW
    elseif a.again then
      next_look = math.min(next_look or a.again, a.again)
    elseif not a.paused and not a.stopped then
      more = 1
    end
    if a.go == 0 and (a.again or a.paused) then call('HSET', a.key, 'held', seconds(NOW)) end
  end
end
return { seconds(NOW), next_look and seconds(next_look) or '', more, rows, messages(mids) }
