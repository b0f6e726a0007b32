-- Takes a key or a user away; its name is free again.
-- ARGV  1 kind   2 id
-- Gives 1, or 0 when there is no such one.
local kind, id = ARGV[1], ARGV[2]
local found, name, secret = unpack(call('HMGET', 'pr:client:' .. id, 'kind', 'name', 'secret'))
if found ~= kind then return 0 end
call('DEL', 'pr:client:' .. id)
call('HDEL', 'pr:clients:names:' .. kind, name)
call('ZREM', 'pr:clients:' .. kind, id)
call('HDEL', 'pr:clients:used', id)
if kind == 'key' then call('HDEL', 'pr:clients:digests', secret) end
call('INCR', 'pr:clients:turn')
return 1
