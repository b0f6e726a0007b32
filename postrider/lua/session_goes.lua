-- Ends the pause of an account whose phone is there again, unless WhatsApp itself refuses it.
-- ARGV  1 account
local key = 'pr:account:' .. ARGV[1]
if call('HGET', key, 'kind') == 'x' then return 0 end
call('HDEL', key, 'until', 'why', 'kind', 'probe', 'opened', 'fails', 'failed')
call('PUBLISH', 'pr:wake', seconds(NOW))
return 1
