-- Gives sessions whose QR codes are to be looked at to one caller.
-- ARGV  1 at most so many   2 seconds after which another gets what this one has not settled
local due = call('ZRANGE', 'pr:session:codes', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(due) do
  if call('EXISTS', 'pr:session:code:' .. id) == 1 then
    call('ZADD', 'pr:session:codes', seconds(NOW + tonumber(ARGV[2])), id)
  else
    call('ZREM', 'pr:session:codes', id)
  end
end
return due
