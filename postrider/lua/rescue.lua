-- Arms anew what should have left `late` seconds ago and stands in no list that could send it: a stock RQ worker popped
-- it and died, or somebody emptied a queue. Each call goes on where the last one stopped.
-- ARGV  1 late (s)   2 look at most at   3 leave it while a queue is longer: what is in it cannot be told cheaply
-- Gives how many were armed anew.
for _, name in pairs(QUEUES) do
  if call('LLEN', 'rq:queue:' .. name) > tonumber(ARGV[3]) then return 0 end
end
local rescued, most = 0, tonumber(ARGV[2])
local start = tonumber(call('GET', 'pr:rescued') or 0)
local ids = call('ZRANGE', 'pr:waiting', '-inf', seconds(NOW - tonumber(ARGV[1])), 'BYSCORE', 'LIMIT', start, most)
call('SET', 'pr:rescued', #ids < most and 0 or start + most)

local function listed(job_id, r)
  return call('ZSCORE', SCHEDULE, job_id) or call('ZSCORE', 'pr:line:' .. r.queue .. ' ' .. r.account, job_id)
    or call('ZSCORE', 'pr:alone', job_id) or call('LPOS', 'rq:queue:' .. QUEUES[r.queue], job_id)
end

for _, id in ipairs(ids) do
  local mid, idx = split(id)
  local r = mid and load(mid, idx)
  if not r or not WAITS[r.state] then
    call('ZREM', 'pr:waiting', id)
  else
    local job_id = job_id_of(mid, idx, r.alarm)
    if not listed(job_id, r) then
      call('DEL', 'rq:job:' .. job_id)
      rearm(mid, idx, r, NOW)
      rescued = rescued + 1
    end
  end
end
return rescued
