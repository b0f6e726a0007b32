-- Makes callbacks of what is told in the outbox, then claims those that are due, under a lease: a courier that dies leaves
-- them due again. Each host has few places, and one that does not answer has one, so that it takes none from the others.
-- ARGV  1 places   2 places of one host   3 JSON: host -> how many of them are taken   4 lease (s)   5 the word of this claim
--       6 WEBHOOK_URL, or ''   7 take from the outbox at most   8 given up untried after (s), at a host that does not answer
-- Gives {now, when to look again or '', rows}.
local places, per_host, busy = tonumber(ARGV[1]), tonumber(ARGV[2]), cjson.decode(ARGV[3])
local lease_until, claim, everything, most = NOW + tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local HOSTS, MORE = 200, 10
local hosts = {} -- those whose due time has changed

local function add(id, url, owner, event, line)
  local host = string.match(string.lower(url), '^https?://([^/?#]+)')
  if not host or call('EXISTS', 'pr:c:' .. id) == 1 then return end
  call('HSET', 'pr:c:' .. id, 'url', url, 'host', host, 'owner', owner, 'type', event, 'line', line, 'state', 'waiting',
    'tries', 0, 'made', seconds(NOW), 'since', seconds(NOW), 'at', seconds(NOW))
  later('ZADD', 'pr:cb:waiting', 0, id)
  if owner ~= '' then later('ZADD', 'pr:cb:waiting:' .. owner, 0, id) end
  later('ZADD', 'pr:cb:due:' .. host, seconds(NOW), id)
  hosts[host] = true
end

local lines = call('LPOP', 'pr:outbox', most) or {}
for _, line in ipairs(lines) do
  local readable, event = pcall(cjson.decode, line)
  if readable and type(event) == 'table' and type(event.id) == 'string' and type(event.type) == 'string'
    and type(event.data) == 'table' then
    local id, url, owner = event.id, event.url or '', event.owner or ''
    if url ~= '' and (event.format ~= 'task' or event.task) then add(id, url, owner, event.type, line) end
    -- With the same address it would be told twice; in the other form it is another thing.
    if everything ~= '' and not event.alone and (url ~= everything or event.format == 'task') then
      add(id .. '_all', everything, '', event.type, line)
    end
  end
end
flush()
for host in pairs(hosts) do set_due(host) end

local rows, finished = {}, false
local any_off = call('EXISTS', 'pr:cb:off') == 1
local given_up = NOW - tonumber(ARGV[8])

local function serve(host)
  local fails = call('HEXISTS', 'pr:cb:fails', host) == 1
  local room = math.min((fails and 1 or per_host) - (busy[host] or 0), places - #rows)
  if room <= 0 then return end
  local due = 'pr:cb:due:' .. host
  local look = (fails or any_off) and room + MORE or room -- some may be given up
  for _, id in ipairs(call('ZRANGE', due, '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, look)) do
    local url, owner, line, tries, since = unpack(call('HMGET', 'pr:c:' .. id, 'url', 'owner', 'line', 'tries', 'since'))
    if not url then
      call('ZREM', due, id)
    elseif any_off and call('ZSCORE', 'pr:cb:off', url) then
      finish(id, host, owner, 'dead', no_answer('its address is turned off: it answered 410'))
      finished = true
    elseif fails and tonumber(since) < given_up then
      finish(id, host, owner, 'dead', no_answer('its address has not answered for too long'))
      finished = true
    elseif room > 0 then
      room = room - 1
      call('ZADD', due, seconds(lease_until), id)
      call('HSET', 'pr:c:' .. id, 'claim', claim)
      rows[#rows + 1] = { id, url, host, tries, line }
    end
  end
  set_due(host)
  if finished and fails then call('ZADD', 'pr:cb:hosts', 'XX', seconds(NOW), host) end
end

for _, host in ipairs(call('ZRANGE', 'pr:cb:hosts', '-inf', seconds(NOW), 'BYSCORE', 'LIMIT', 0, HOSTS)) do
  if #rows >= places then break end
  serve(host)
end

-- Hosts that are due and have no place left wake their courier when a try ends.
local next_look = call('ZRANGE', 'pr:cb:hosts', '(' .. seconds(NOW), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
if #lines == most or finished then next_look = seconds(NOW) end
return { seconds(NOW), next_look or '', rows }
