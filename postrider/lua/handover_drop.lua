-- Forgets handovers; of their files those that nothing else needs are deleted by the next sweep.
-- ARGV  1 only those that were to be looked at by then (s, or +inf)   then two for each: a handover, the ids of its files with
--       spaces between
-- Gives how many; one that is gone, or that somebody has asked for meanwhile, is none of them.
local dropped = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local due = call('ZSCORE', 'pr:handovers', id)
  if due and (ARGV[1] == '+inf' or tonumber(due) <= tonumber(ARGV[1])) then
    local owner = call('HGET', 'pr:handover:' .. id, 'owner')
    release_files(ARGV[i + 1], 'handover ' .. id)
    call('ZREM', 'pr:handovers', id)
    call('SREM', 'pr:handovers:open', id)
    call('DEL', 'pr:handover:' .. id)
    if owner and call('GET', 'pr:handover:latest:' .. owner) == id then call('DEL', 'pr:handover:latest:' .. owner) end
    dropped = dropped + 1
  end
end
return dropped
