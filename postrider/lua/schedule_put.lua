-- Writes a schedule, if nobody else has meanwhile; state `gone` removes it.
-- ARGV  1 schedule   2 version it must have (0: there is none yet)   3 look at it again then (s); '': never
--       4 its owner   then fields: name, value, ...
-- Its files stay until it ends or is removed.
-- Gives 1, or 0 when it has another version; `gone`, and changes nothing: a file of it is no longer there.
local key, owned = 'pr:s:' .. ARGV[1], 'pr:schedules:of:' .. ARGV[4]
if (call('HGET', key, 'v') or '0') ~= ARGV[2] then return 0 end
local before, files = call('HGET', key, 'file_ids') or '', nil
for at = 5, #ARGV, 2 do
  if ARGV[at] == 'file_ids' then files = ARGV[at + 1] end
end
if not files_are_there(files or '') then return 'gone' end
call('HSET', key, 'v', ARGV[2] + 1, unpack(ARGV, 5))
local state = call('HGET', key, 'state')
release_files(before, ARGV[1])
if state == 'active' or state == 'paused' then hold_files(files or before, ARGV[1]) end
if state == 'gone' or state == 'deleted' then
  call('ZREM', 'pr:schedules', ARGV[1])
  call('ZREM', owned, ARGV[1])
else
  call('ZADD', 'pr:schedules', 0, ARGV[1])
  call('ZADD', owned, 0, ARGV[1])
end
if state == 'gone' then call('DEL', key) end
if state == 'gone' or ARGV[3] == '' then
  call('ZREM', 'pr:schedules:due', ARGV[1])
else
  call('ZADD', 'pr:schedules:due', ARGV[3], ARGV[1])
end
return 1
