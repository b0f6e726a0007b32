-- Keeps what a client has handed over, and with it its files.
-- ARGV  1 handover   2 its owner   3 when it is looked at (s)   4 its files, as JSON   then: the id of each of them
-- Gives 1; 0 when one of the files is no longer there: nothing is kept then.
local id, owner = ARGV[1], ARGV[2]
for at = 5, #ARGV do
  if call('EXISTS', 'pr:file:' .. ARGV[at]) == 0 then return 0 end
end
for at = 5, #ARGV do
  call('SADD', 'pr:file:' .. ARGV[at] .. ':of', 'handover ' .. id)
  call('ZREM', 'pr:files:unused', ARGV[at])
end
call('HSET', 'pr:handover:' .. id, 'owner', owner, 'files', ARGV[4])
call('ZADD', 'pr:handovers', ARGV[3], id)
call('SET', 'pr:handover:latest:' .. owner, id)
return 1
