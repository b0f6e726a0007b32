-- Keeps fields of hashes encrypted anew, where nobody has changed them meanwhile.
-- ARGV  per field: hash, field, as it was read, as it is to be
-- Gives how many were changed.
local changed = 0
for at = 1, #ARGV, 4 do
  if call('HGET', ARGV[at], ARGV[at + 1]) == ARGV[at + 2] then
    call('HSET', ARGV[at], ARGV[at + 1], ARGV[at + 3])
    changed = changed + 1
  end
end
return changed
