-- Keeps what a client has handed over, and with it its files.
-- ARGV  1 handover   2 its owner   3 when it is looked at (s)   4 its files, as JSON   5 the ids of them, with spaces between
-- Gives 1; 0 when one of the files is no longer there: nothing is kept then.
local id, owner = ARGV[1], ARGV[2]
if not files_are_there(ARGV[5]) then return 0 end
hold_files(ARGV[5], 'handover ' .. id)
call('HSET', 'pr:handover:' .. id, 'owner', owner, 'files', ARGV[4])
call('ZADD', 'pr:handovers', ARGV[3], id)
call('SET', 'pr:handover:latest:' .. owner, id)
return 1
