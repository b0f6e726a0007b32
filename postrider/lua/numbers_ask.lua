-- Gives what is kept of numbers, or a place among those that their session may look up in an hour.
-- ARGV  1 places in an hour; 0: no limit   2 `1`: who gets none comes back, and is told a time of its own
--       then per number: where it is kept, its session, its session's account
-- Gives for each what is kept of it; `ask`, and the place is taken; `wait` and seconds; `unlinked`; or `stopped`.
local HOUR, AHEAD = 3600, 6 * 3600
local cap, comes_back = tonumber(ARGV[1]), ARGV[2] == '1'

local function place(session)
  if cap == 0 then return 'ask' end
  local key = 'pr:checks:' .. session
  call('ZREMRANGEBYSCORE', key, '-inf', seconds(NOW - HOUR))
  local taken = call('ZCARD', key)
  if taken < cap then
    call('ZADD', key, seconds(NOW), seconds(NOW) .. ' ' .. taken)
    call('EXPIRE', key, HOUR)
    return 'ask'
  end
  -- The cap may have been larger: so many have to grow old first.
  local free_at = tonumber(call('ZRANGE', key, taken - cap, taken - cap, 'WITHSCORES')[2]) + HOUR
  if comes_back then
    -- One after the other: if all came back at once, all but one would have come in vain, and be in the way of others.
    local last = tonumber(call('GET', key .. ' next') or 0)
    if last > NOW + AHEAD then last = 0 end -- it is told without knowing who has been stopped since
    free_at = math.max(free_at, last + HOUR / cap)
    call('SET', key .. ' next', seconds(free_at), 'EX', math.ceil(free_at - NOW) + HOUR)
  end
  return 'wait ' .. seconds(free_at - NOW)
end

local told = {}
for at = 3, #ARGV, 3 do
  local key, session, name = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local kept = call('GET', key)
  if kept then
    told[#told + 1] = kept
  elseif call('HGET', 'pr:session:' .. session, 'state') ~= 'linked' then
    told[#told + 1] = 'unlinked'
  elseif is_stopped(name) then
    told[#told + 1] = 'stopped'
  else
    told[#told + 1] = place(session)
  end
end
return told
