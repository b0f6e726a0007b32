-- What the scripts of callbacks share; put before each of them, behind what all share.
--
--   pr:c:<callback>       hash    url, host, owner, type, line (as `tell` wrote it), state (waiting, done, dead), tries, made
--                                 (s), since (s: when its tries began), at (s: its next try, or when it ended), answer
--                                 (JSON: what came back last), claim (who tries it now: a word of its own each time)
--   pr:cb:due:<host>      zset    callback -> its next try (s), or until when the try under way is its courier's
--   pr:cb:hosts           zset    host -> the earliest of those (s)
--   pr:cb:fails           hash    host -> how often in a row it has not answered, and until when it is left alone (s)
--   pr:cb:off             zset    URL -> since when it is turned off (s), because it answered 410
--   pr:cb:<state>         zset    callback -> 0, for lists: an id begins with a time
--   pr:cb:<state>:<owner> zset    the same, of one owner
--   pr:cb:ended:<state>   zset    callback -> when it ended (s), of those that did
--
-- A callback's id is the event's, and of its copy to WEBHOOK_URL `_all` behind it.

local function list(id, owner, state, command)
  local key = 'pr:cb:' .. state
  if command == 'ZREM' then
    call('ZREM', key, id)
    if owner ~= '' then call('ZREM', key .. ':' .. owner, id) end
  else
    call('ZADD', key, 0, id)
    if owner ~= '' then call('ZADD', key .. ':' .. owner, 0, id) end
  end
end

-- Says when a host is next to be called.
local function set_due(host)
  local first = call('ZRANGE', 'pr:cb:due:' .. host, 0, 0, 'WITHSCORES')
  if first[1] then
    local left_alone = string.match(call('HGET', 'pr:cb:fails', host) or '', ' (.*)$') or 0
    call('ZADD', 'pr:cb:hosts', seconds(math.max(tonumber(first[2]), tonumber(left_alone))), host)
  else
    call('ZREM', 'pr:cb:hosts', host)
    call('HDEL', 'pr:cb:fails', host)
  end
end

-- Moves one that waits to its end. Its host's due time is the caller's to set.
local function finish(id, host, owner, state, answer)
  call('ZREM', 'pr:cb:due:' .. host, id)
  list(id, owner, 'waiting', 'ZREM')
  list(id, owner, state, 'ZADD')
  call('ZADD', 'pr:cb:ended:' .. state, seconds(NOW), id)
  call('HSET', 'pr:c:' .. id, 'state', state, 'at', seconds(NOW), 'answer', answer)
  call('HDEL', 'pr:c:' .. id, 'claim')
end

local function no_answer(reason) return cjson.encode({ at = seconds(NOW), reason = reason }) end
