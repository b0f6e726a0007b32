-- Gives up tasks whose time is past, then gives the first ones of queues that are due to one caller, under a lease.
-- ARGV  1 queues at most   2 lease (s)   3 the word of this claim   4 give up at most
-- Gives a row per task: task, queue, and FIELDS.
for _, id in ipairs(call('ZRANGE', 'pr:work:until', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[4]))) do
  finish(id, 'false')
end
local rows, till = {}, NOW + tonumber(ARGV[2])
for _, queue in ipairs(call('ZRANGE', 'pr:work:due', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))) do
  rows[#rows + 1] = first_of(queue, ARGV[3], till)
end
return rows
