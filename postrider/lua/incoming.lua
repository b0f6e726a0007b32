-- Keeps what people sent, each once, and does at once what they ask for: a crash in between would lose it for good, as the
-- messenger's repeat is no news.
-- ARGV  1 keep at most   2 keep for (s)   3 know a repeat for (s)   4 account   5 whose account it is: a client's id, or ''
--       6 files that may wait at most to be fetched
--       then per message: mark, JSON, wish (`o` opts out, `i` opts in, `l` lives, '' nothing), what callbacks are to tell of
--       it or '', what is to be fetched for it or '', what is known of that (JSON) or '', number of addresses, these
-- What callbacks tell of a message with a file waits until that is here, or is known never to be: see media_end.lua.
-- Gives a 1 or 0 per message: new, or known.
local gives, at = {}, 7
local owners = ARGV[5] ~= '' and 'pr:incoming:o:' .. ARGV[5]

local function lift(addressed, whys)
  local stands = call('HGET', 'pr:suppressed', addressed)
  if stands and string.find(whys, string.sub(stands, 1, 1), 1, true) then
    call('HDEL', 'pr:suppressed', addressed)
    call('ZREM', 'pr:suppressed:order', addressed)
  end
end

-- Gives what is left for callbacks to tell now.
local function to_be_fetched(id, what, known, event)
  if call('ZCARD', 'pr:media:due') >= tonumber(ARGV[6]) then
    local told = cjson.decode(known)
    told.state, told.reason = 'missing', 'too many files wait to be fetched'
    known = cjson.encode(told)
  else
    call('HSET', 'pr:media:' .. id, 'what', what, 'event', event, 'account', ARGV[4])
    call('ZADD', 'pr:media:due', seconds(NOW), id)
    event = ''
  end
  call('HSET', 'pr:incoming:files', id, known)
  call('ZADD', 'pr:incoming:files:order', string.match(id, '^%d+'), id)
  return event
end

while at <= #ARGV do
  local mark, json, wish, event, what, known, count = unpack(ARGV, at, at + 6)
  local new = not recall(mark, tonumber(ARGV[3]))
  if new then
    remember(mark, '1', tonumber(ARGV[3]))
    local id = call('XADD', 'pr:incoming', 'MAXLEN', ARGV[1], '*', 'j', json)
    if owners then call('XADD', owners, 'MAXLEN', ARGV[1], id, 'r', '') end
    if what ~= '' then event = to_be_fetched(id, what, known, event) end
    if event ~= '' then call('RPUSH', 'pr:outbox', event) end
    for i = at + 7, at + 6 + tonumber(count) do
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
  at = at + 7 + tonumber(count)
end
local oldest = math.floor((NOW - tonumber(ARGV[2])) * 1000)
call('XTRIM', 'pr:incoming', 'MINID', '~', oldest)
if owners and call('EXISTS', owners) == 1 then
  call('XTRIM', owners, 'MINID', '~', oldest)
  call('EXPIRE', owners, ARGV[2])
end
return gives
