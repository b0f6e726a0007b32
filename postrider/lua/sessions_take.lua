-- Gives sessions that are to be looked at to one caller, who then says when they are next.
-- ARGV  1 at most so many   2 seconds after which another gets what this one has not settled
local due = call('ZRANGE', 'pr:sessions:due', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(due) do
  call('ZADD', 'pr:sessions:due', seconds(NOW + tonumber(ARGV[2])), id)
  call('SREM', 'pr:sessions:asked', id)
end
return due
