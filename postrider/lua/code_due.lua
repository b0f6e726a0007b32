-- Has what shows the QR codes of a session looked at.
-- ARGV  1 session   2 in how many seconds   3 also when nothing shows any: then it is kept for so many seconds; or ''
local key = 'pr:session:code:' .. ARGV[1]
if call('EXISTS', key) == 0 then
  if ARGV[3] == '' then return 0 end
  call('HSET', key, 'n', 0)
  call('EXPIRE', key, ARGV[3])
end
call('ZADD', 'pr:session:codes', seconds(NOW + tonumber(ARGV[2])), ARGV[1])
return 1
