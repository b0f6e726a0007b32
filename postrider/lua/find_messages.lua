-- Finds messages, newest first, some at a time.
-- ARGV  1 JSON: key (a list of messages) or ids; after, low, high: ids; most, scan; owner, service, reference,
--       tag as in find.lua
-- Gives {rows {id, fields and values, state letters and counts}, where to go on or ''}.
local asked = cjson.decode(ARGV[1])
local rows, looked, go_on = {}, 0, ''

local function look(mid)
  looked = looked + 1
  local fields, m = call('HGETALL', 'pr:m:' .. mid), {}
  for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
  if not m.committed or (asked.owner and (m.owner or '') ~= asked.owner) then return end
  if asked.service and not string.find(' ' .. (m.services or '') .. ' ', ' ' .. asked.service .. ' ', 1, true) then return end
  if asked.reference and m.reference ~= asked.reference then return end
  if asked.tag then
    local has = false
    for _, tag in ipairs(m.tags and cjson.decode(m.tags) or {}) do has = has or tag == asked.tag end
    if not has then return end
  end
  local counts = {}
  for state, n in pairs(counts_of(mid, tonumber(m.total))) do
    counts[#counts + 1] = state
    counts[#counts + 1] = n
  end
  rows[#rows + 1] = { mid, fields, counts }
end

if asked.ids then
  for _, mid in ipairs(asked.ids) do look(mid) end
else
  local from = asked.after and '(' .. asked.after or asked.high and '[' .. asked.high or '+'
  local to = asked.low and '[' .. asked.low or '-'
  while go_on == '' do
    local found = call('ZRANGE', asked.key, from, to, 'BYLEX', 'REV', 'LIMIT', 0, 100)
    for _, mid in ipairs(found) do
      look(mid)
      from = '(' .. mid
      if #rows >= asked.most or looked >= asked.scan then
        go_on = mid
        break
      end
    end
    if #found < 100 then break end
  end
end
return { rows, go_on }
