-- Ends a task with what came of it; whoever holds it gets the next one of its queue, under a lease of its own.
-- ARGV  1 task   2 the word of the claim   3 its result, as JSON   4 lease (s)
-- Gives the next one's row; nothing when there is none, or another has the queue by now.
local queue, claim = unpack(call('HMGET', 'pr:task:' .. ARGV[1], 'queue', 'claim'))
if not queue then return false end
finish(ARGV[1], ARGV[3])
return claim == ARGV[2] and first_of(queue, ARGV[2], NOW + tonumber(ARGV[4])) or false
