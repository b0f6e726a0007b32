-- Changes fields of a session that nobody has changed since it was read.
-- ARGV  1 session   2 its version then   3 what callbacks are to tell, or ''   then fields: name, value, ...
-- Gives 1, or 0 when somebody has, or it is gone.
local key = 'pr:session:' .. ARGV[1]
if call('HGET', key, 'v') ~= ARGV[2] then return 0 end
call('HSET', key, unpack(ARGV, 4))
call('HINCRBY', key, 'v', 1)
call('INCR', 'pr:sessions:turn')
if ARGV[3] ~= '' then call('RPUSH', 'pr:outbox', ARGV[3]) end
return 1
