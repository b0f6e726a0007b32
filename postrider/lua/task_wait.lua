-- Has a task, and its queue with it, wait.
-- ARGV  1 task   2 the word of the claim   3 for so long (s)   4 `1`: it was tried   5 `1`: behind the others of its queue
-- Gives 1; 0 when it has ended, or another has it by now.
local key = 'pr:task:' .. ARGV[1]
local queue, claim = unpack(call('HMGET', key, 'queue', 'claim'))
if not queue or claim ~= ARGV[2] then return 0 end
call('HDEL', key, 'claim')
if ARGV[4] == '1' then call('HINCRBY', key, 'tries', 1) end
if ARGV[5] == '1' then call('ZADD', 'pr:work:' .. queue, seconds(NOW), ARGV[1]) end
call('ZADD', 'pr:work:due', seconds(NOW + tonumber(ARGV[3])), queue)
return 1
