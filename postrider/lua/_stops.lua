-- What operators have stopped.

-- What an operator has stopped, by name; nil when nothing is.
local stops = nil
local function stopped(name)
  if stops == nil then
    stops = {}
    for _, field in ipairs(call('HKEYS', 'pr:stops')) do stops[field] = true end
  end
  return stops[name]
end

local function is_stopped(account)
  return stopped('all') or (next(stops) and (stops['service ' .. service_of(account)] or stops['account ' .. account]))
end

local client_stops = nil
-- The client of a message, when it is one that is stopped.
local function stopped_client(mid)
  if client_stops == nil then
    client_stops = false
    stopped('all')
    for field in pairs(stops) do client_stops = client_stops or string.sub(field, 1, 7) == 'client ' end
  end
  if not client_stops then return nil end
  local owner = call('HGET', 'pr:m:' .. mid, 'owner') or ''
  return stops['client ' .. owner] and owner
end
