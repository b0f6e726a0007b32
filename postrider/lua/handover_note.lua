-- Writes down how the messages of handovers have ended, or that they have not.
-- ARGV  three for each: a handover, its end or '', when it is looked at next (s)
-- Gives for how many; one that is gone is none of them.
local noted = 0
for i = 1, #ARGV, 3 do
  local id, key = ARGV[i], 'pr:handover:' .. ARGV[i]
  if call('EXISTS', key) == 1 then
    if ARGV[i + 1] == '' then
      call('HDEL', key, 'ended')
      call('SADD', 'pr:handovers:open', id)
    else
      call('HSET', key, 'ended', ARGV[i + 1])
      call('SREM', 'pr:handovers:open', id)
    end
    call('ZADD', 'pr:handovers', ARGV[i + 2], id)
    noted = noted + 1
  end
end
return noted
