-- Puts what waits in lines of ours back into RQ's queues, when no worker of ours has claimed for a while: RQ's own know
-- nothing of lines.
-- ARGV  1 for how long (s)   2 at most
-- Gives how many.
if NOW - tonumber(call('GET', 'pr:served') or 0) <= tonumber(ARGV[1]) then return 0 end
local released, stamp = 0, rq_time(NOW)

local function release(key)
  local popped = call('ZPOPMIN', key, tonumber(ARGV[2]) - released)
  for i = 1, #popped, 2 do
    local _, _, r = sendable(popped[i])
    if r then
      call('RPUSH', 'rq:queue:' .. QUEUES[r.queue], popped[i])
      call('HINCRBY', 'pr:queued', r.account, 1)
      call('HSET', 'rq:job:' .. popped[i], 'status', 'queued', 'enqueued_at', stamp)
      released = released + 1
    end
  end
end

release('pr:alone')
for _, line in ipairs(call('SMEMBERS', 'pr:lines')) do
  if released < tonumber(ARGV[2]) then release('pr:line:' .. line) end
  if call('EXISTS', 'pr:line:' .. line) == 0 then call('SREM', 'pr:lines', line) end
end
return released
