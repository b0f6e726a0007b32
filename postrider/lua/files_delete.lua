-- Forgets files that nothing needs, and whose time is over; what they held is then to be deleted from the disk.
-- ARGV  1 now (s)   2 at most
-- Gives how many were looked at.
local ids = call('ZRANGE', 'pr:files:unused', '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  call('ZREM', 'pr:files:unused', id)
  if call('EXISTS', 'pr:file:' .. id .. ':of') == 0 then
    call('DEL', 'pr:file:' .. id)
    call('SADD', 'pr:files:deleted', id)
  end
end
return #ids
