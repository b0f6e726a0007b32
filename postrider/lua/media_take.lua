-- Gives files that are to be fetched to one caller, who then says what became of them.
-- ARGV  1 at most so many   2 of one account   3 JSON: account -> how many of its are under way here   4 seconds after which
--       another gets what this one has not settled   5 look at so many
-- Gives rows: id, what is to be fetched, what callbacks are to tell, how often it was given (this time counted), account.
local most, of_one, busy, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), cjson.decode(ARGV[3]), tonumber(ARGV[4])
local rows = {}
for _, id in ipairs(call('ZRANGE', 'pr:media:due', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[5]))) do
  if #rows >= most then break end
  local key = 'pr:media:' .. id
  local what, event, account = unpack(call('HMGET', key, 'what', 'event', 'account'))
  if not what then
    call('ZREM', 'pr:media:due', id)
  elseif (busy[account] or 0) < of_one then
    busy[account] = (busy[account] or 0) + 1
    call('ZADD', 'pr:media:due', seconds(NOW + lease), id)
    rows[#rows + 1] = { id, what, event, call('HINCRBY', key, 'tries', 1), account }
  end
end
return rows
