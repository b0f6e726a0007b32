-- Writes down that what a task does is about to be done.
-- ARGV  1 task   2 the word of the claim
-- Gives 1; 0 when it has ended, or another has it by now.
local key = 'pr:task:' .. ARGV[1]
if call('HGET', key, 'claim') ~= ARGV[2] then return 0 end
call('HSET', key, 'begun', 1)
return 1
