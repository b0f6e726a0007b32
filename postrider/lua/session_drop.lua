-- Forgets a session.
-- ARGV  1 session   2 its owner   3 what callbacks are to tell, or ''
-- Gives 1, or 0 when it was gone.
local id = ARGV[1]
call('ZREM', 'pr:sessions', id)
call('ZREM', 'pr:sessions:of:' .. ARGV[2], id)
call('ZREM', 'pr:sessions:due', id)
call('SREM', 'pr:sessions:asked', id)
call('INCR', 'pr:sessions:turn')
if call('DEL', 'pr:session:' .. id) == 0 then return 0 end
if ARGV[3] ~= '' then call('RPUSH', 'pr:outbox', ARGV[3]) end
return 1
