-- Adds a key or a user, unless another of its kind has that name.
-- ARGV  1 kind (`key` or `user`)   2 id   3 name   4 secret, hashed   5 at most so many of the kind
--       then fields: name, value ('' for none), ...
-- Gives `ok`, `taken` or `full`.
local kind, id, name, secret = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if call('HEXISTS', 'pr:clients:names:' .. kind, name) == 1 then return 'taken' end
if call('ZCARD', 'pr:clients:' .. kind) >= tonumber(ARGV[5]) then return 'full' end
local key = 'pr:client:' .. id
call('HSET', key, 'kind', kind, 'name', name, 'secret', secret, 'created', seconds(NOW))
for at = 6, #ARGV, 2 do
  if ARGV[at + 1] ~= '' then call('HSET', key, ARGV[at], ARGV[at + 1]) end
end
call('HSET', 'pr:clients:names:' .. kind, name, id)
call('ZADD', 'pr:clients:' .. kind, seconds(NOW), id)
if kind == 'key' then call('HSET', 'pr:clients:digests', secret, id) end
call('INCR', 'pr:clients:turn')
return 'ok'
