-- Counts a QR code that is new for a session, and says how long it lives.
-- ARGV  1 session   2 the code's digest   3 at most so many   4 seconds that the first lives   5 each further one   6 or as many
--       as its sidecar says, ''   7 seconds after its end at which it is looked at   8 seconds for which all this is kept
-- Gives {which one it is, when it ends (s)}; {0, ''} for one that is known, or one too many.
local key = 'pr:session:code:' .. ARGV[1]
if call('HGET', key, 'digest') == ARGV[2] then return { 0, '' } end
call('HSET', key, 'digest', ARGV[2])
local n = tonumber(call('HGET', key, 'n') or 0) + 1
call('EXPIRE', key, ARGV[8])
if n > tonumber(ARGV[3]) then return { 0, '' } end
local lives = tonumber(ARGV[6] ~= '' and ARGV[6] or n == 1 and ARGV[4] or ARGV[5])
call('HSET', key, 'n', n, 'ends', seconds(NOW + lives), 'shown', '')
call('ZADD', 'pr:session:codes', seconds(NOW + lives + tonumber(ARGV[7])), ARGV[1])
return { n, seconds(NOW + lives) }
