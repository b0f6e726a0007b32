-- Arms anew what should have left `late` seconds ago and stands in no list that could send it: a stock RQ worker popped
-- it and died, or somebody emptied a queue. One that is still listed somewhere is at worst armed twice, and its older
-- alarm then counts for nothing.
-- ARGV  1 late (s)   2 look at most at   3 look so deep into a queue
-- Gives how many were armed anew.
local rescued = 0
local ids = call('ZRANGE', 'pr:waiting', '-inf', seconds(NOW - tonumber(ARGV[1])), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  local mid, idx = split(id)
  local r = mid and load(mid, idx)
  if not r or not WAITS[r.state] then
    call('ZREM', 'pr:waiting', id)
  else
    local job_id = job_id_of(mid, idx, r.alarm)
    if not call('ZSCORE', SCHEDULE, job_id)
      and not call('LPOS', 'rq:queue:' .. QUEUES[r.queue], job_id, 'MAXLEN', tonumber(ARGV[3])) then
      call('DEL', 'rq:job:' .. job_id)
      rearm(mid, idx, r, NOW)
      rescued = rescued + 1
    end
  end
end
return rescued
