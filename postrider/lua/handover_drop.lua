-- Forgets a handover; of its files those that nothing else needs are deleted by the next sweep.
-- ARGV  1 handover   2 only when it was to be looked at by then (s, or +inf)   3 the ids of its files, with spaces between
-- Gives 1; 0 when there is none, or somebody has asked for it meanwhile.
local id = ARGV[1]
local due = call('ZSCORE', 'pr:handovers', id)
if not due or (ARGV[2] ~= '+inf' and tonumber(due) > tonumber(ARGV[2])) then return 0 end
local owner = call('HGET', 'pr:handover:' .. id, 'owner')
release_files(ARGV[3], 'handover ' .. id)
call('ZREM', 'pr:handovers', id)
call('SREM', 'pr:handovers:open', id)
call('DEL', 'pr:handover:' .. id)
if owner and call('GET', 'pr:handover:latest:' .. owner) == id then call('DEL', 'pr:handover:latest:' .. owner) end
return 1
