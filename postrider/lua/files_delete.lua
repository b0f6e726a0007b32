-- Forgets files that nothing needs, and whose time is over; what they held is then to be deleted from the disk.
-- ARGV  1 now (s)   2 at most   3 this one alone, whatever its time; or ''
-- Gives how many were looked at; for one alone, whether it is forgotten.
local function forget(id)
  if call('EXISTS', 'pr:file:' .. id .. ':of') == 1 then return 0 end
  local owner, size = unpack(call('HMGET', 'pr:file:' .. id, 'owner', 'size'))
  if owner then
    call('ZREM', 'pr:files', id)
    call('ZREM', 'pr:files:o:' .. owner, id)
    if tonumber(size) > 0 and call('HINCRBY', 'pr:files:bytes', owner, -tonumber(size)) <= 0 then
      call('HDEL', 'pr:files:bytes', owner)
    end
  end
  call('DEL', 'pr:file:' .. id)
  call('SADD', 'pr:files:deleted', id)
  return 1
end

if ARGV[3] ~= '' then
  if forget(ARGV[3]) == 0 then return 0 end
  for _, list in ipairs({ 'pr:files:unused', 'pr:files:arriving' }) do call('ZREM', list, ARGV[3]) end
  return 1
end
local looked_at = 0
for _, list in ipairs({ 'pr:files:unused', 'pr:files:arriving' }) do
  local ids = call('ZRANGE', list, '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]))
  for _, id in ipairs(ids) do
    call('ZREM', list, id)
    forget(id)
  end
  looked_at = looked_at + #ids
end
return looked_at
