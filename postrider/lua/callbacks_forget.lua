-- Forgets ended callbacks: those that ended long ago, and the oldest of too many. Also addresses turned off as long.
-- ARGV  1 state   2 ended so long ago (s)   3 keep at most   4 forget at most   5 turned off so long ago (s)
-- Gives how many were forgotten, and how many of these only because there were too many.
local state, most = ARGV[1], tonumber(ARGV[4])
local ended = 'pr:cb:ended:' .. state
call('ZREMRANGEBYSCORE', 'pr:cb:off', '-inf', seconds(NOW - tonumber(ARGV[5])))
local ids = call('ZRANGE', ended, '-inf', seconds(NOW - tonumber(ARGV[2])), 'BYSCORE', 'LIMIT', 0, most)
local over = math.min(most, call('ZCARD', ended) - tonumber(ARGV[3]))
local too_many = math.max(0, over - #ids)
if too_many > 0 then ids = call('ZRANGE', ended, 0, over - 1) end
for _, id in ipairs(ids) do
  list(id, call('HGET', 'pr:c:' .. id, 'owner') or '', state, 'ZREM')
  call('UNLINK', 'pr:c:' .. id)
end
if #ids > 0 then call('ZREM', ended, unpack(ids)) end
return { #ids, too_many }
