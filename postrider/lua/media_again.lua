-- Has a file that came in with a message fetched again later.
-- ARGV  1 id   2 how often it was given then   3 in how many seconds
-- Gives 1, or 0 when somebody else has it now, or has settled it.
if call('HGET', 'pr:media:' .. ARGV[1], 'tries') ~= ARGV[2] then return 0 end
call('ZADD', 'pr:media:due', seconds(NOW + tonumber(ARGV[3])), ARGV[1])
return 1
