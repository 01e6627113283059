-- Go on with a poll that travelled to a worker: its time limit counts from here, and it belongs to no term, even if the
-- worker is faster than the beat that sent it. Sent twice it only counts again.
--
-- KEYS[1] key    hash  the unit
-- ARGV[1] poll   text  poll id
-- ARGV[2] valid  ms    how long the claim lasts from now
-- returns {now, slot, trigger, cursor, in flight, attempt, last poll at}, or nothing when the claim is somebody else's
local key = KEYS[1]
local poll, valid = ARGV[1], tonumber(ARGV[2])
-- include now
local u = redis.call('HMGET', key, 'claim', 'claim_slot', 'claim_trigger', 'cursor', 'inflight', 'attempt', 'polled')
if u[1] ~= poll then
  return {}
end
redis.call('HSET', key, 'claim_by', '', 'claim_until', now + valid)
return {now, u[2], u[3], u[4] or '', u[5] or '0', u[6] or '0', u[7] or ''}
