-- Keeps a task, behind the others of its queue.
-- ARGV  1 task   2 queue   3 kind   4 session   5 owner   6 number, or ''   7 return URL   8 given up after (s)
--       9 at most so many in all   10 and of one owner
-- Gives `ok`, `full` or `many`.
local id, queue, owner = ARGV[1], ARGV[2], ARGV[5]
if call('ZCARD', 'pr:work:until') >= tonumber(ARGV[9]) then return 'full' end
if tonumber(call('HGET', 'pr:work:of', owner) or 0) >= tonumber(ARGV[10]) then return 'many' end
call('HSET', 'pr:task:' .. id, 'queue', queue, 'kind', ARGV[3], 'session', ARGV[4], 'owner', owner, 'to', ARGV[6],
  'url', ARGV[7], 'made', seconds(NOW), 'tries', 0)
call('ZADD', 'pr:work:until', seconds(NOW + tonumber(ARGV[8])), id)
call('ZADD', 'pr:work:' .. queue, seconds(NOW), id)
call('HINCRBY', 'pr:work:of', owner, 1)
call('ZADD', 'pr:work:due', 'NX', seconds(NOW), queue)
return 'ok'
