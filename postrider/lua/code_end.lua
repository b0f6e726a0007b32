-- Forgets what has shown the QR codes of a session.
-- ARGV  1 session   2 which code was the newest
-- Gives 1, or 0 when there is a newer one.
local key = 'pr:session:code:' .. ARGV[1]
if (call('HGET', key, 'n') or '') ~= ARGV[2] then return 0 end
call('DEL', key)
call('ZREM', 'pr:session:codes', ARGV[1])
return 1
