-- What is told and kept of what happens to a delivery: events for callbacks, attempts, the ids that messengers gave.

local MARKED_DAYS = 30 -- a receipt for what was sent longer ago finds nothing
local MAX_LOG = 8000 -- bytes of attempts kept for one delivery; the oldest lines go first

-- State -> the event that callbacks tell when a delivery comes to it; the last where it stands in no line any more.
local TOLD = {
  t = 'sent', d = 'delivered', e = 'read', f = 'failed', c = 'cancelled', x = 'expired', z = 'suppressed', u = 'unknown',
}
-- Events that end a delivery, as far as we can tell.
local ENDS_TASK = { sent = true, failed = true, cancelled = true, expired = true, suppressed = true }
local TASKS_KEPT_S = 90 * 86400
local callbacks = {} -- message -> what its callbacks need: read once in a script

-- Puts into the outbox that delivery `r` has come to `event` (sent, delivered, read, failed, cancelled, expired, suppressed,
-- unknown), when callbacks tell of it. To be called with every change to such a state, in the script that makes it; `reason`
-- and `provider_id` may be nil. The line holds all that a callback needs: its message may be purged before anybody reads it.
local function tell(mid, idx, r, event, reason, provider_id)
  if not r.told then return end
  local message, id = 'pr:m:' .. mid, delivery_id(mid, idx)
  local c = callbacks[mid]
  if not c then
    c = call('HMGET', message, 'callback_url', 'callback_format', 'owner', 'reference', 'total')
    callbacks[mid] = c
  end
  local sequence = call('HINCRBY', message, 'told', 1)
  local tries = r.attempts + ((event == 'sent' or event == 'delivered' or event == 'read') and 1 or 0) -- a yes uses up none
  local line = { id = string.format('%s_%06d', mid, sequence), type = 'delivery.' .. event, at = seconds(NOW),
    url = c[1] or nil, owner = c[3] or nil, data = { id = id, message = mid, uuid = r.uuid, account = r.account,
      state = event, reason = reason or '', provider_id = provider_id or '', reference = c[4] or nil, attempts = tries,
      sequence = sequence } }
  if c[2] == 'task' then
    line.format = 'task'
    local tasks = 'pr:tasks:' .. mid
    if ENDS_TASK[event] and call('SETBIT', tasks, idx, 1) == 0 then
      line.task = c[5] == '1' and mid or id
      call('EXPIRE', tasks, TASKS_KEPT_S)
    end
  end
  call('RPUSH', 'pr:outbox', cjson.encode(line))
end

-- Keeps a line of what happened to a delivery.
local function log(mid, idx, line)
  local key = bucket('a', mid, idx)
  if call('HSETNX', key, idx, line) == 1 then return end
  local lines = call('HGET', key, idx)
  if string.sub(lines, -#line) == line then return end -- recorded before, and the answer was lost
  lines = lines .. '\n' .. line
  while #lines > MAX_LOG and string.find(lines, '\n') do lines = string.gsub(lines, '^[^\n]*\n', '', 1) end
  call('HSET', key, idx, lines)
end

local function ids_of(day, mark) return 'pr:ids:' .. day .. ':' .. (string.byte(mark, 1) * 256 + string.byte(mark, 2)) % 4096 end

-- Writes down under which mark its messenger will speak of this, for so many seconds at least.
local function remember(mark, word, keep_s)
  local key = ids_of(math.floor(NOW / 86400), mark)
  call('HSET', key, string.sub(mark, 3), word)
  call('EXPIRE', key, math.ceil(math.min(keep_s, MARKED_DAYS * 86400)) + 86400, 'NX')
end

-- What was written down under `mark` in as many seconds, the latest; or nil.
local function recall(mark, keep_s)
  local today = math.floor(NOW / 86400)
  for day = today, today - math.min(math.ceil(keep_s / 86400), MARKED_DAYS), -1 do
    local found = call('HGET', ids_of(day, mark), string.sub(mark, 3))
    if found then return found end
  end
  return nil
end
