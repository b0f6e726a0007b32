-- One page of a list, in order of (time, id), from behind a cursor. The cursor is a time and an id, so a page neither
-- repeats nor skips what was there all along, whatever came or went meanwhile.
-- ARGV  1 list   2 `up` or `down`   3 look at most at   4 cursor time, or ''   5 cursor id   6 owner, or '' for everybody's
-- Gives {total, rows, messages, how many were looked at, the last of them, its time}. A row: id, time, record, and the text
-- and due time that it went with, where its message has others now. Rows are the owner's alone; `total` is everybody's.
local list, up, most = ARGV[1], ARGV[2] == 'up', tonumber(ARGV[3])
local total = call('ZCARD', list)
local start = 0

if ARGV[4] ~= '' then start = rank_behind(list, up, tonumber(ARGV[4]), ARGV[5]) end

local entries
if up then
  entries = call('ZRANGE', list, start, start + most - 1, 'WITHSCORES')
else
  entries = call('ZRANGE', list, start, start + most - 1, 'REV', 'WITHSCORES')
end
local owner, owners = ARGV[6], {}

local function is_theirs(mid)
  if owner == '' then return true end
  if owners[mid] == nil then owners[mid] = call('HGET', 'pr:m:' .. mid, 'owner') end
  return owners[mid] == owner
end

local rows, mids = {}, {}
for i = 1, #entries, 2 do
  local mid, idx = split(entries[i])
  local raw = mid and is_theirs(mid) and call('HGET', bucket('d', mid, idx), idx)
  if raw then
    local row = { entries[i], entries[i + 1], raw }
    if not up then row[4], row[5] = went_with(mid, idx, tonumber(entries[i + 1])) end
    rows[#rows + 1] = row
    mids[mid] = true
  end
end
return { total, rows, messages(mids), #entries / 2, entries[#entries - 1] or '', entries[#entries] or '' }
