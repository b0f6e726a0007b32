-- Forgets a session.
-- ARGV  1 session   2 its owner
-- Gives 1, or 0 when it was gone.
local id = ARGV[1]
call('ZREM', 'pr:sessions', id)
call('ZREM', 'pr:sessions:of:' .. ARGV[2], id)
call('ZREM', 'pr:sessions:due', id)
call('SREM', 'pr:sessions:asked', id)
call('INCR', 'pr:sessions:turn')
return call('DEL', 'pr:session:' .. id)
