-- Ends the first call with an idempotency key: keeps the key for what was accepted, or frees it. A key that another call has
-- taken meanwhile is left alone.
-- ARGV  1 key   2 message   3 1 if it was accepted
local key = 'pr:once:' .. ARGV[1]
if call('HGET', key, 'message') ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then call('HSET', key, 'done', 1) else call('DEL', key) end
return 1
