-- Changes fields of a key or a user.
-- ARGV  1 kind   2 id   then fields: name, value ('' takes the field away, `now` for `disabled` is the time), ...
-- Gives 1, or 0 when there is no such one.
local key = 'pr:client:' .. ARGV[2]
if call('HGET', key, 'kind') ~= ARGV[1] then return 0 end
for at = 3, #ARGV, 2 do
  local field, value = ARGV[at], ARGV[at + 1]
  if value == '' then
    call('HDEL', key, field)
  elseif field == 'disabled' then
    call('HSETNX', key, field, seconds(NOW)) -- since the first time
  else
    call('HSET', key, field, value)
  end
end
call('INCR', 'pr:clients:turn')
return 1
