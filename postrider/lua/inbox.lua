-- Keeps one note in the sandbox's inbox, once per key; the oldest go when there are too many.
-- ARGV  1 key   2 note (JSON)   3 keep at most
if call('HSETNX', 'pr:inbox', ARGV[1], ARGV[2]) == 0 then return 0 end
call('ZADD', 'pr:inbox:order', seconds(NOW), ARGV[1])
local over = call('ZCARD', 'pr:inbox:order') - tonumber(ARGV[3])
if over > 0 then
  local oldest = call('ZRANGE', 'pr:inbox:order', 0, over - 1)
  call('HDEL', 'pr:inbox', unpack(oldest))
  call('ZREM', 'pr:inbox:order', unpack(oldest))
end
return 1
