-- Arms again what waited for stopped clients that may go on: some of it; the sweep calls until nothing is left.
-- ARGV  1 at most
-- Gives how many.
local armed = 0
for _, client in ipairs(call('SMEMBERS', 'pr:stopped')) do
  if not stopped('client ' .. client) then
    local key = 'pr:stopped:' .. client
    local popped = call('ZPOPMIN', key, tonumber(ARGV[1]) - armed)
    for i = 1, #popped, 2 do
      local _, _, r = sendable(popped[i])
      if r then
        call('ZADD', SCHEDULE, popped[i + 1], popped[i])
        call('HSET', 'rq:job:' .. popped[i], 'status', 'scheduled')
      end
    end
    armed = armed + #popped / 2
    if call('EXISTS', key) == 0 then call('SREM', 'pr:stopped', client) end
  end
end
if armed > 0 then call('PUBLISH', 'pr:wake', seconds(NOW)) end
return armed
