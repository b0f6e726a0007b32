-- Writes down which message a handover has become.
-- ARGV  1 handover   2 message   3 what was asked, hashed   4 when it is looked at (s)
-- Gives 1; 0 when there is no such handover, or it has become another message.
local key = 'pr:handover:' .. ARGV[1]
if call('EXISTS', key) == 0 then return 0 end
local message = call('HGET', key, 'message')
if message then return message == ARGV[2] and 1 or 0 end
call('HSET', key, 'message', ARGV[2], 'asked', ARGV[3])
call('ZADD', 'pr:handovers', ARGV[4], ARGV[1])
call('SADD', 'pr:handovers:open', ARGV[1])
return 1
