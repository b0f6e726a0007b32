-- What the scripts of tasks share; put before each of them, behind what all share. Keys: tasks.py.

local FIELDS = { 'kind', 'session', 'owner', 'to', 'made', 'tries', 'begun' }

-- Ends a task, and has its end told: once, as a task is there no longer. `result`: JSON.
local function finish(id, result)
  local key = 'pr:task:' .. id
  local queue, kind, session, owner, to, url = unpack(call('HMGET', key, 'queue', 'kind', 'session', 'owner', 'to', 'url'))
  call('ZREM', 'pr:work:until', id)
  if not queue then return end
  call('ZREM', 'pr:work:' .. queue, id)
  call('DEL', key)
  if call('HINCRBY', 'pr:work:of', owner, -1) <= 0 then call('HDEL', 'pr:work:of', owner) end
  call('RPUSH', 'pr:outbox', cjson.encode({ id = id, type = 'task.ended', at = seconds(NOW), url = url, owner = owner,
    format = 'task', task = id, data = { id = id, name = kind, session = session, uuid = to ~= '' and to or nil,
    result = cjson.decode('[' .. result .. ']')[1] } }))
end

-- Gives the first task of a queue to who says the word `claim`, until `till` (s); nil when there is none.
local function first_of(queue, claim, till)
  local standing = 'pr:work:' .. queue
  while true do
    local id = call('ZRANGE', standing, 0, 0)[1]
    if not id then
      call('ZREM', 'pr:work:due', queue)
      return nil
    end
    local key = 'pr:task:' .. id
    if call('EXISTS', key) == 1 then
      call('HSET', key, 'claim', claim)
      call('ZADD', 'pr:work:due', seconds(till), queue)
      return { id, queue, unpack(call('HMGET', key, unpack(FIELDS))) }
    end
    call('ZREM', standing, id)
  end
end
