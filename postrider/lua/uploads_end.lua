-- Ends uploads: takes away each lock that is still held by who says so. One that has lapsed may be another's by now.
-- ARGV  per upload: lock, holder
for at = 1, #ARGV, 2 do
  if call('GET', ARGV[at]) == ARGV[at + 1] then call('DEL', ARGV[at]) end
end
return 1
