-- Keeps what people sent, each once, and does at once what they ask for: a crash in between would lose it for good, as the
-- messenger's repeat is no news.
-- ARGV  1 keep at most   2 keep for (s)   3 know a repeat for (s)   4 account
--       then per message: mark, JSON, wish (`o` opts out, `i` opts in, `l` lives, '' nothing), what callbacks are to tell of
--       it or '', number of addresses, these
-- Gives a 1 or 0 per message: new, or known.
local gives, at = {}, 5

local function lift(addressed, whys)
  local stands = call('HGET', 'pr:suppressed', addressed)
  if stands and string.find(whys, string.sub(stands, 1, 1), 1, true) then
    call('HDEL', 'pr:suppressed', addressed)
    call('ZREM', 'pr:suppressed:order', addressed)
  end
end

while at <= #ARGV do
  local mark, json, wish, event, count = unpack(ARGV, at, at + 4)
  local new = not recall(mark, tonumber(ARGV[3]))
  if new then
    remember(mark, '1', tonumber(ARGV[3]))
    call('XADD', 'pr:incoming', 'MAXLEN', ARGV[1], '*', 'j', json)
    if event ~= '' then call('RPUSH', 'pr:outbox', event) end
    for i = at + 5, at + 4 + tonumber(count) do
      local addressed = address(ARGV[4], ARGV[i])
      -- What somebody of ours has put there by hand stays.
      if wish == 'o' then
        if string.sub(call('HGET', 'pr:suppressed', addressed) or '', 1, 1) ~= 'm' then
          local told = cjson.decode(json)
          suppress(addressed, 'o', string.sub(told.text ~= '' and told.text or told.kind, 1, 200))
        end
      elseif wish == 'i' then
        lift(addressed, 'od')
      elseif wish == 'l' then
        lift(addressed, 'd')
      end
    end
  end
  gives[#gives + 1] = new and 1 or 0
  at = at + 5 + tonumber(count)
end
call('XTRIM', 'pr:incoming', 'MINID', '~', math.floor((NOW - tonumber(ARGV[2])) * 1000))
return gives
