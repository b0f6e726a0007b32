-- Claims one job that a stock RQ worker has popped. One that may not go now is armed anew, for when it may: it has that turn.
-- ARGV  1 job   2 lease (s)   3 a random number, 0 to 1   4 JSON: account -> what it may do
-- Gives {now, rows, messages}; no rows: unknown, ended, claimed by another, an older alarm, or not now.
local UNKNOWN_ACCOUNT_S, PROBE_S, STOPPED_S = 60, 5, 5
specs, books_ahead = cjson.decode(ARGV[4]), true
local job_id = ARGV[1]
local mid, idx, r = sendable(job_id)
if not r then return { seconds(NOW), {}, {} } end
call('HINCRBY', 'pr:queued', r.account, -1)

local a = account(r.account)
local at, pace = NOW, a.spec and pace_with(a, r) or 0
local free = free_at(r, pace)
if not a.spec then
  at = NOW + UNKNOWN_ACCOUNT_S
elseif a.stopped or stopped_client(mid) then
  at = NOW + STOPPED_S
elseif a.paused and a.go == 0 then
  at = math.max(a.again or 0, NOW + PROBE_S)
elseif a.day and a.sent >= a.spec.cap and not r.paid then
  at = a.again -- whom that day has room for is for that day to say
elseif free > NOW then
  rearm(mid, idx, r, r.state, free)
  if pace > 0 then
    job_id = job_id_of(mid, idx, r.alarm)
    call('ZREM', SCHEDULE, job_id)
    wait_turn(job_id, mid, idx, r, pace, free)
  end
  return { seconds(NOW), {}, {} }
elseif not r.paid then
  if a.go == 0 then at = a.again end
  a.used = 1
  settle(a, tonumber(ARGV[3]))
  r.paid = true
end
if at > NOW then
  rearm(mid, idx, r, r.state, at)
  return { seconds(NOW), {}, {} }
end
leave_turns(job_id, r)
use_turn(r, pace)
local how = r.deaths and 'alone' or ''
if a.paused then how = spend(a, job_id) end
local taken = take(job_id, mid, idx, r, seconds(NOW + tonumber(ARGV[2])), how, a.held)
flush()
return { seconds(NOW), { taken }, messages({ [mid] = true }) }
