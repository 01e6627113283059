-- A poll is on its way to a worker: its claim belongs to no term any more and lasts while the message waits. Where a
-- worker has it already, or sent twice, it changes nothing.
--
-- KEY   unit_hash  hash  the unit
-- ARG   poll       text  poll id
-- ARG   valid      ms    how long the claim lasts from now
-- returns 1, or 0 when another poll has the claim or has ended
-- include now
local open = redis.call('HMGET', unit_hash, 'claim', 'claim_by')
if open[1] ~= poll then
  return 0
end
if open[2] ~= '' then
  redis.call('HSET', unit_hash, 'claim_by', '', 'claim_until', now + valid)
end
return 1
