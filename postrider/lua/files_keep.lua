-- Keeps files that have arrived, all of them or none.
-- ARGV  1 owner   2 bytes of all of them   3 now (s)   4 kept until then (s) while nothing needs them
--       then for each: id, number of its fields, fields (name, value, ...)
-- Gives `ok`; or `late`: the sweep has given one of them up; or `file_bytes N`: the limit of the owner that they are over.
local owner, size, now, kept_until = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local most = call('HGET', 'pr:client:' .. owner, 'file_bytes')
if most and tonumber(call('HGET', 'pr:files:bytes', owner) or 0) + size > tonumber(most) then return 'file_bytes ' .. most end

local starts, at = {}, 5
while at <= #ARGV do
  if not call('ZSCORE', 'pr:files:arriving', ARGV[at]) then return 'late' end
  starts[#starts + 1] = at
  at = at + 2 + tonumber(ARGV[at + 1])
end
for _, start in ipairs(starts) do
  local id, fields = ARGV[start], tonumber(ARGV[start + 1])
  call('HSET', 'pr:file:' .. id, unpack(ARGV, start + 2, start + 1 + fields))
  call('ZREM', 'pr:files:arriving', id)
  call('ZADD', 'pr:files:unused', kept_until, id)
  call('ZADD', 'pr:files', now, id)
  call('ZADD', 'pr:files:o:' .. owner, now, id)
end
if size > 0 then call('HINCRBY', 'pr:files:bytes', owner, size) end
return 'ok'
