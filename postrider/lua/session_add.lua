-- Adds a session, unless there is one of that id.
-- ARGV  1 session   2 its owner   3 at most so many in all   4 looked at in so many seconds   then fields: name, value, ...
-- Gives `ok`, `taken` or `full`.
local id, owner = ARGV[1], ARGV[2]
if call('EXISTS', 'pr:session:' .. id) == 1 then return 'taken' end
if call('ZCARD', 'pr:sessions') >= tonumber(ARGV[3]) then return 'full' end
call('HSET', 'pr:session:' .. id, 'v', 0, unpack(ARGV, 5))
call('ZADD', 'pr:sessions', 0, id)
call('ZADD', 'pr:sessions:of:' .. owner, 0, id)
call('ZADD', 'pr:sessions:due', seconds(NOW + tonumber(ARGV[4])), id)
call('INCR', 'pr:sessions:turn')
return 'ok'
