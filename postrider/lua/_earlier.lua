-- What a part of a message has gone with, before the rest was changed.

local MOST_EARLIER = 20 -- of one message

-- Keeps, before a message is changed, what the part of it that has gone went with; its text, too, if that is to change. Gives
-- whether there is room for one more.
local function keep_as_it_was(mid, with_text)
  local message = 'pr:m:' .. mid
  local n = call('HINCRBY', message, 'earlier', 1)
  if n > MOST_EARLIER then
    call('HINCRBY', message, 'earlier', -1)
    return false
  end
  local body, due = unpack(call('HMGET', message, 'body', 'due'))
  call('HSET', message, 'until:' .. n, seconds(NOW), 'due:' .. n, due)
  if with_text then call('HSET', message, 'body:' .. n, body) end
  return true
end

local earlier = {} -- message -> how often it was changed while a part of it had gone: read once in a script

-- The text and the due time that a delivery went with which ended at `at`, where its message has others by now; else nil.
local function went_with(mid, idx, at)
  local message = 'pr:m:' .. mid
  earlier[mid] = earlier[mid] or tonumber(call('HGET', message, 'earlier') or 0)
  if earlier[mid] == 0 then return nil end
  for line in string.gmatch(call('HGET', bucket('a', mid, idx), idx) or '', '[^\n]+') do
    local told = cjson.decode(line)
    if #told >= 5 then at = told[1] end -- an attempt: when its text was read
  end
  local body, due = nil, nil
  for n = 1, earlier[mid] do
    local until_at, its_due, its_body = unpack(call('HMGET', message, 'until:' .. n, 'due:' .. n, 'body:' .. n))
    if at < tonumber(until_at) then
      due = due or its_due
      body = body or its_body
    end
  end
  return body or '', due or ''
end
