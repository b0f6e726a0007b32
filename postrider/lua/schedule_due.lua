-- Finds the schedules to look at now; nobody else is given them for a while.
-- ARGV  1 now (s)   2 at most   3 for so long (s)
local ids = call('ZRANGE', 'pr:schedules:due', '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]))
for _, id in ipairs(ids) do call('ZADD', 'pr:schedules:due', seconds(ARGV[1] + ARGV[3]), id) end
return ids
