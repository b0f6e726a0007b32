-- Stops what has not gone of a part of a message.
-- ARGV  1 message   2 first index   3 count
-- Gives how many had gone, or are on their way.
local gone = 0
for idx = tonumber(ARGV[2]), ARGV[2] + ARGV[3] - 1 do
  local r = load(ARGV[1], idx)
  if r and (WAITS[r.state] and r.state ~= 'u' or r.state == 'p') then
    call('DEL', 'rq:job:' .. disarm(ARGV[1], idx, r))
    r.state = 'c'
    save(ARGV[1], idx, r)
    call('ZADD', 'pr:failed', seconds(NOW), delivery_id(ARGV[1], idx))
  elseif r and r.state ~= 'c' then
    gone = gone + 1
  end
end
return gone
