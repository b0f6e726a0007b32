-- Writes down what became of a file that came in with a message, and has callbacks told of both.
-- ARGV  1 id   2 how often it was given then   3 what is known of it now (JSON)   4 our id of it, or ''   5 what callbacks are
--       to tell, or ''
-- Gives `ok`; `late`: somebody else has it now, or has settled it; `gone`: our file is no longer there.
local id, key = ARGV[1], 'pr:media:' .. ARGV[1]
if call('HGET', key, 'tries') ~= ARGV[2] then return 'late' end
if not files_are_there(ARGV[4]) then return 'gone' end
-- A message that is no longer kept needs no file.
if call('HEXISTS', 'pr:incoming:files', id) == 1 then
  hold_files(ARGV[4], 'incoming ' .. id)
  call('HSET', 'pr:incoming:files', id, ARGV[3])
end
call('DEL', key)
call('ZREM', 'pr:media:due', id)
if ARGV[5] ~= '' then call('RPUSH', 'pr:outbox', ARGV[5]) end
return 'ok'
