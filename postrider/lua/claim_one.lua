-- Claims one job that a stock RQ worker has popped; RQ keeps its own books about it.
-- ARGV  1 job   2 lease (s)
-- Gives {now, rows, messages}; no rows: unknown, ended, claimed by another, or an older alarm.
local row, mid = take(ARGV[1], NOW + tonumber(ARGV[2]))
if not row then return { seconds(NOW), {}, {} } end
return { seconds(NOW), { row }, messages({ [mid] = true }) }
