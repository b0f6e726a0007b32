-- Ends the first call with an idempotency key: keeps the key for what was accepted, or frees it. A key that another call has
-- taken meanwhile is left alone.
-- ARGV  1 key   2 message   3 1 if it was accepted   4 its files, JSON, or ''
local key = 'pr:once:' .. ARGV[1]
if call('HGET', key, 'message') ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then
  call('HSET', key, 'done', 1)
  if ARGV[4] ~= '' then call('HSET', key, 'files', ARGV[4]) end
else
  call('DEL', key)
end
return 1
