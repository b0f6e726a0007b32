-- Writes down what shows the newest QR code of a session, or that nothing does any more.
-- ARGV  1 session   2 which code it is about   then fields: name, value, ...; a value of '' takes the field away
-- Gives 1, or 0 when there is a newer code, or all of it is over.
local key = 'pr:session:code:' .. ARGV[1]
if (call('HGET', key, 'n') or '') ~= ARGV[2] then return 0 end
for at = 3, #ARGV, 2 do
  if ARGV[at + 1] == '' then call('HDEL', key, ARGV[at]) else call('HSET', key, ARGV[at], ARGV[at + 1]) end
end
return 1
