-- Lists: in which of them something stands, and where a page of one begins.

local COUNTED = 100 -- deliveries: a larger message keeps counts, of a smaller one they are counted when asked for
local RECIPIENT_BUCKETS = 16384 -- so that a million deliveries leave each a listpack

-- Where the deliveries to a recipient are found again.
local function recipients_bucket(uuid)
  return 'pr:to:b:' .. tonumber(string.sub(redis.sha1hex(uuid), 1, 8), 16) % RECIPIENT_BUCKETS
end

-- The lists of messages in which this one stands.
local function lists_of(message)
  local owner, reference, tags, services = unpack(call('HMGET', message, 'owner', 'reference', 'tags', 'services'))
  local keys = { 'pr:messages' }
  if owner then keys[#keys + 1] = 'pr:messages:o:' .. owner end
  if reference then keys[#keys + 1] = 'pr:messages:r:' .. reference end
  for _, tag in ipairs(tags and cjson.decode(tags) or {}) do keys[#keys + 1] = 'pr:messages:t:' .. tag end
  for service in string.gmatch(services or '', '%S+') do keys[#keys + 1] = 'pr:messages:s:' .. service end
  return keys
end

-- Byte by byte, as a sorted set does. Lua's own comparison follows the locale that Redis runs under.
local function is_after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- The rank, from the end that `up` or down begins with, of the first entry behind (score, id); by bisection, as that entry
-- itself may be gone.
local function rank_behind(list, up, at, id)
  local total = call('ZCARD', list)
  local low, high = 0, total
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = call('ZRANGE', list, middle, middle, 'WITHSCORES')
    local score = tonumber(entry[2])
    local behind = score > at or (score == at and is_after(entry[1], id))
    if not up then behind = behind or (score == at and entry[1] == id) end
    if behind then high = middle else low = middle + 1 end
  end
  return up and low or total - low
end

-- How many of a message's deliveries stand where: state letter -> number. Those forgotten count as they were.
local function counts_of(mid, total)
  local found, rest = {}, total
  local fields = call('HGETALL', 'pr:m:' .. mid)
  for i = 1, #fields, 2 do
    local state = string.match(fields[i], '^n:(%a)$')
    if state and tonumber(fields[i + 1]) > 0 then
      found[state] = tonumber(fields[i + 1])
      rest = rest - found[state]
    end
  end
  if total > COUNTED then
    if rest > 0 then found.s = rest end
    return found
  end
  for _, raw in ipairs(call('HVALS', bucket('d', mid, 0))) do
    local state = string.sub(raw, 1, 1)
    found[state] = (found[state] or 0) + 1
  end
  return found
end
