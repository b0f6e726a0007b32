-- Takes a token from a client's bucket, which holds what `rate` gives in a second, and at least one.
-- ARGV  1 client   2 tokens per second
-- Gives '' or the seconds until there is one.
local key, gap = 'pr:rate:' .. ARGV[1], 1 / tonumber(ARGV[2])
local next_at = math.max(tonumber(call('GET', key) or 0), NOW)
local early = next_at - NOW - math.max(0, 1 - gap)
if early > 1e-6 then return seconds(early) end
call('SET', key, seconds(next_at + gap), 'PX', math.ceil((next_at + gap - NOW) * 1000) + 1000)
return ''
