-- One page of files, newest first, from behind a cursor.
-- ARGV  1 list   2 at most   3 cursor time, or ''   4 cursor id
-- Gives id, time, until when it is kept unused or '', fields, for each.
local start = ARGV[3] == '' and 0 or rank_behind(ARGV[1], false, tonumber(ARGV[3]), ARGV[4])
local entries = call('ZRANGE', ARGV[1], start, start + tonumber(ARGV[2]) - 1, 'REV', 'WITHSCORES')
local rows = {}
for i = 1, #entries, 2 do
  rows[#rows + 1] = { entries[i], entries[i + 1], call('ZSCORE', 'pr:files:unused', entries[i]) or '', call('HGETALL', 'pr:file:' .. entries[i]) }
end
return rows
