-- Forgets the files of messages that are no longer kept; what nothing else needs of them is deleted by the sweep.
-- ARGV  1 at most so many
-- Gives how many were forgotten.
local first = call('XRANGE', 'pr:incoming', '-', '+', 'COUNT', 1)[1]
local before = first and '(' .. string.match(first[1], '^%d+') or '+inf'
local ids = call('ZRANGE', 'pr:incoming:files:order', '-inf', before, 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  local known = call('HGET', 'pr:incoming:files', id)
  local told = known and cjson.decode(known) or {}
  if type(told.id) == 'string' then release_files(told.id, 'incoming ' .. id) end
  call('HDEL', 'pr:incoming:files', id)
  call('ZREM', 'pr:incoming:files:order', id)
end
return #ids
