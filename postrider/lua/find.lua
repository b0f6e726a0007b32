-- Finds deliveries, some at a time, in the order of the list that is walked.
-- ARGV  1 JSON:
--   walk      `messages`: a list of messages, newest first, each by index; `message`: one; `recipient`: newest first;
--             `list`: a state's, in order of time
--   key       the list, or the message
--   up        whether a `list` begins with its lowest time
--   after     where to go on: {message, index}, {delivery} or {time, id}; absent at the beginning
--   most      rows, at most      scan   records to look at, at most
--   low, high  messages from, to: ids between, absent for no bound
--   states, due, service, account, uuid, owner, reference, tag   what they have to be, each absent for any; `states` letters;
--             `due`: of those scheduled, 1 those due already, 0 the others
-- Gives {rows {id, record, time or '', last attempts and receipts or ''}, messages {id, fields and values, ...}, JSON of where to go on or ''}.
local asked = cjson.decode(ARGV[1])
local LAST = 1500 -- bytes: longer than any line
local rows, mids, looked, go_on = {}, {}, 0, nil

local wanted = nil
if asked.states then
  wanted = {}
  for letter in string.gmatch(asked.states, '%a') do wanted[letter] = true end
end

local seen = {} -- message -> whether it is one of those asked for, and its number of deliveries

local function look_at(mid)
  local m = seen[mid]
  if m then return m end
  local owner, reference, tags, total, committed =
    unpack(call('HMGET', 'pr:m:' .. mid, 'owner', 'reference', 'tags', 'total', 'committed'))
  local fits = committed and (not asked.owner or (owner or '') == asked.owner)
  fits = fits and (not asked.reference or reference == asked.reference)
  fits = fits and not (asked.low and is_after(asked.low, mid)) and not (asked.high and is_after(mid, asked.high))
  if fits and asked.tag then
    fits = false
    for _, tag in ipairs(tags and cjson.decode(tags) or {}) do fits = fits or tag == asked.tag end
  end
  m = { fits = fits, total = tonumber(total) or 0 }
  seen[mid] = m
  return m
end

local function look(mid, idx, r)
  if wanted and not wanted[r.state] then return end
  if asked.account and r.account ~= asked.account then return end
  if asked.service and service_of(r.account) ~= asked.service then return end
  if asked.uuid and r.uuid ~= asked.uuid then return end
  local id = delivery_id(mid, idx)
  local at = LISTS[r.state] and call('ZSCORE', LISTS[r.state], id)
  if r.state == 'u' and not at then at = call('ZSCORE', HELD, id) end
  if asked.due and r.state == 's' and (asked.due == 1) ~= (at and tonumber(at) <= NOW or false) then return end
  local tried = call('HGET', bucket('a', mid, idx), idx)
  -- The end of what is kept holds the last attempt, and the receipts behind it.
  if tried and #tried > LAST then tried = string.match(string.sub(tried, -LAST), '\n(.*)$') end
  rows[#rows + 1] = { id, as_text(r), at or '', tried or '' }
  mids[mid] = true
end

local function is_full() return #rows >= asked.most or looked >= asked.scan end

-- Looks through a message from an index on. False when it has to go on there.
local function walk_message(mid, first)
  local m = look_at(mid)
  if not m.fits then
    looked = looked + 1
    return true
  end
  for idx = first, m.total - 1 do
    if is_full() then
      go_on = { mid, idx }
      return false
    end
    if idx == first or idx % BUCKET == 0 then
      local ids = {}
      for i = idx, math.min(m.total, (math.floor(idx / BUCKET) + 1) * BUCKET) - 1 do ids[#ids + 1] = delivery_id(mid, i) end
      prefetch(ids)
    end
    looked = looked + 1
    local r = load(mid, idx)
    if r then look(mid, idx, r) end
  end
  return true
end

if asked.walk == 'message' then
  walk_message(asked.key, asked.after and asked.after[2] or 0)
elseif asked.walk == 'messages' then
  local from = asked.high and '[' .. asked.high or '+'
  local to = asked.low and '[' .. asked.low or '-'
  local last = nil
  if asked.after then
    last = asked.after[1]
    if walk_message(last, asked.after[2]) then from = '(' .. last end
  end
  while not go_on do
    local found = call('ZRANGE', asked.key, from, to, 'BYLEX', 'REV', 'LIMIT', 0, 100)
    for _, mid in ipairs(found) do
      if go_on then break end
      if is_full() then go_on = { mid, 0 } else walk_message(mid, 0) end
      last = mid
    end
    if #found < 100 then break end
    from = '(' .. last
  end
elseif asked.walk == 'recipient' then
  local from = asked.after and '(' .. asked.after[1] or asked.high and '(' .. asked.high .. '.' or '+'
  local to = asked.low and '[' .. asked.low or '-'
  local found = call('ZRANGE', asked.key, from, to, 'BYLEX', 'REV', 'LIMIT', 0, asked.scan)
  prefetch(found)
  for _, id in ipairs(found) do
    local mid, idx = split(id)
    looked = looked + 1
    local r = load(mid, idx)
    if r and look_at(mid).fits then look(mid, idx, r) end
    if is_full() then
      go_on = { id }
      break
    end
  end
else
  local start = asked.after and rank_behind(asked.key, asked.up, tonumber(asked.after[1]), asked.after[2]) or 0
  local found
  if asked.up then
    found = call('ZRANGE', asked.key, start, start + asked.scan - 1, 'WITHSCORES')
  else
    found = call('ZRANGE', asked.key, start, start + asked.scan - 1, 'REV', 'WITHSCORES')
  end
  local ids = {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  prefetch(ids)
  for i = 1, #found, 2 do
    local mid, idx = split(found[i])
    looked = looked + 1
    local r = mid and load(mid, idx)
    if r and look_at(mid).fits then look(mid, idx, r) end
    if is_full() then
      go_on = { found[i + 1], found[i] }
      break
    end
  end
end
local texts = {}
for mid in pairs(mids) do
  texts[#texts + 1] = mid
  texts[#texts + 1] = call('HGETALL', 'pr:m:' .. mid)
end
return { rows, texts, go_on and cjson.encode(go_on) or '' }
