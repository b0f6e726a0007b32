-- Keeps that a client is there now, unless somebody has just taken it away.
-- ARGV  1 id
if call('EXISTS', 'pr:client:' .. ARGV[1]) == 1 then call('HSET', 'pr:clients:used', ARGV[1], TIME[1]) end
return 1
