-- Arms anew what should have left `late` seconds ago and stands in no list that could send it: a stock RQ worker popped
-- it and died, or somebody emptied a queue. Each call goes on where the last one stopped.
-- ARGV  1 late (s)   2 look at most at   3 leave it while its queue is longer: what is in it cannot be told cheaply
-- Gives how many were armed anew.
local too_long = {} -- queue letter -> true
for q, name in pairs(QUEUES) do too_long[q] = call('LLEN', 'rq:queue:' .. name) > tonumber(ARGV[3]) end
local rescued, most = 0, tonumber(ARGV[2])

local some_stopped = call('EXISTS', 'pr:stopped') == 1

local function in_stopped(mid, job_id)
  if not some_stopped then return nil end
  return call('ZSCORE', 'pr:stopped:' .. (call('HGET', 'pr:m:' .. mid, 'owner') or ''), job_id)
end

-- Whether it waits for its recipient; then somebody of those who do is called.
local function in_turns(job_id, r)
  if not r.turn or not call('ZSCORE', turns_key(r), job_id) then return false end
  call_next(r)
  return true
end

local function listed(mid, job_id, r)
  return in_turns(job_id, r) or call('ZSCORE', SCHEDULE, job_id) or call('ZSCORE', 'pr:line:' .. r.queue .. ' ' .. r.account, job_id)
    or call('ZSCORE', 'pr:alone', job_id) or too_long[r.queue] or call('LPOS', 'rq:queue:' .. QUEUES[r.queue], job_id)
    or in_stopped(mid, job_id)
end

local late = seconds(NOW - tonumber(ARGV[1]))
for state in pairs(WAITS) do
  local start = tonumber(call('HGET', 'pr:rescue', state) or 0)
  local ids = call('ZRANGE', LISTS[state], '-inf', late, 'BYSCORE', 'LIMIT', start, most)
  call('HSET', 'pr:rescue', state, #ids < most and 0 or start + most)
  for _, id in ipairs(ids) do
    local mid, idx = split(id)
    local r = mid and load(mid, idx)
    if not r or r.state ~= state then
      call('ZREM', LISTS[state], id)
    else
      local job_id = job_id_of(mid, idx, r.alarm)
      if not listed(mid, job_id, r) then
        call('DEL', 'rq:job:' .. job_id)
        rearm(mid, idx, r, state, NOW)
        rescued = rescued + 1
      end
    end
  end
end
return rescued
