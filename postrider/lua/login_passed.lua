-- Gives a try back that was right, and remembers where the account came in from.
-- ARGV  1 address   2 account, or '' for a key   3 name of the try   4 remember for so long (s)
call('ZREM', 'pr:tries:at ' .. ARGV[1], ARGV[3])
if ARGV[2] ~= '' then
  call('ZREM', 'pr:tries:as ' .. ARGV[2], ARGV[3])
  call('SET', 'pr:tries:knows ' .. ARGV[2] .. ' ' .. ARGV[1], 1, 'EX', ARGV[4])
end
return 1
