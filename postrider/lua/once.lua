-- Takes an idempotency key for one message.
-- ARGV  1 key   2 fingerprint of what was asked   3 message   4 accepted (s)   5 it runs until (s)   6 how long it is kept (s)
-- Gives `new`; `other` when the key belongs to another body; `runs` and the seconds until it is clear; `done`, message and when
-- that was accepted.
local key = 'pr:once:' .. ARGV[1]
local fingerprint, mid, accepted, until_at, done = unpack(call('HMGET', key, 'for', 'message', 'accepted', 'until', 'done'))
if fingerprint and fingerprint ~= ARGV[2] then return { 'other' } end
if fingerprint then
  if done or call('HEXISTS', 'pr:m:' .. mid, 'committed') == 1 then return { 'done', mid, accepted } end
  if NOW < tonumber(until_at) then return { 'runs', seconds(tonumber(until_at) - NOW) } end
end
call('HSET', key, 'for', ARGV[2], 'message', ARGV[3], 'accepted', ARGV[4], 'until', ARGV[5])
call('EXPIRE', key, ARGV[6])
return { 'new' }
