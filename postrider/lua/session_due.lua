-- Says when a session is looked at.
-- ARGV  1 session   2 in how many seconds; `now`: somebody asks for it; '': not before somebody does
-- What is asked for while somebody looks at it is not put off by what that one finds: see sessions_take.lua.
local id = ARGV[1]
if call('EXISTS', 'pr:session:' .. id) == 0 then return 0 end
if ARGV[2] == 'now' then
  call('SADD', 'pr:sessions:asked', id)
  call('ZADD', 'pr:sessions:due', 'LT', seconds(NOW), id)
elseif call('SISMEMBER', 'pr:sessions:asked', id) == 1 then
  return 1
elseif ARGV[2] == '' then
  call('ZREM', 'pr:sessions:due', id)
else
  call('ZADD', 'pr:sessions:due', seconds(NOW + tonumber(ARGV[2])), id)
end
return 1
