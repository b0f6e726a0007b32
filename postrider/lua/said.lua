-- Notes that these texts go to these recipients, unless one of them has gone there lately.
-- ARGV  1 message   2 how long it is noted (s)   3 on: digests of recipient and text
-- Gives the index of the first that has been said already, from 0, and then nothing is noted; or -1.
local mid, ms = ARGV[1], math.ceil(tonumber(ARGV[2]) * 1000)
for i = 3, #ARGV do
  local by = call('GET', 'pr:said:' .. ARGV[i])
  -- Noted for a message that was never accepted, it was not said.
  if by and by ~= mid and call('HEXISTS', 'pr:m:' .. string.match(by, '^%w+'), 'committed') == 1 then return i - 3 end
end
for i = 3, #ARGV do call('SET', 'pr:said:' .. ARGV[i], mid, 'PX', ms) end
return -1
