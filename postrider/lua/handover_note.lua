-- Writes down how the message of a handover has ended, or that it has not.
-- ARGV  1 handover   2 its end, or ''   3 when it is looked at next (s)
-- Gives 1; 0 when there is no such handover.
local key = 'pr:handover:' .. ARGV[1]
if call('EXISTS', key) == 0 then return 0 end
if ARGV[2] == '' then
  call('HDEL', key, 'ended')
  call('SADD', 'pr:handovers:open', ARGV[1])
else
  call('HSET', key, 'ended', ARGV[2])
  call('SREM', 'pr:handovers:open', ARGV[1])
end
call('ZADD', 'pr:handovers', ARGV[3], ARGV[1])
return 1
