-- Files stay as long as somebody needs them: a message, a schedule, or `handover <id>`. `ids`: with spaces between.
local function files_are_there(ids)
  for id in string.gmatch(ids, '%S+') do
    if call('EXISTS', 'pr:file:' .. id) == 0 then return false end
  end
  return true
end

local function hold_files(ids, by)
  for id in string.gmatch(ids, '%S+') do
    call('SADD', 'pr:file:' .. id .. ':of', by)
    call('ZREM', 'pr:files:unused', id)
  end
end

-- What nobody else needs is deleted by the next sweep.
local function release_files(ids, by)
  for id in string.gmatch(ids, '%S+') do
    local users = 'pr:file:' .. id .. ':of'
    if call('SREM', users, by) == 1 and call('EXISTS', users) == 0 then call('ZADD', 'pr:files:unused', seconds(NOW), id) end
  end
end
