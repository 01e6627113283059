-- Let a unit be polled at once; it goes back to its grid afterwards. Nudging twice is one nudge.
--
-- KEY   unit_hash  hash  the unit
-- KEY   due        zset  unit -> next poll
-- ARG   unit       text  name of the unit
-- ARG   trigger    text  why
-- returns 1 if it is due now, 0 if the unit is not in the clock
-- include now
local at = redis.call('ZSCORE', due, unit)
if not at then
  return 0
end
if redis.call('HGET', unit_hash, 'claim') then
  -- The open poll may have read before there was anything to find: its end makes the unit due.
  redis.call('HSET', unit_hash, 'nudged', trigger)
elseif tonumber(at) > now then
  redis.call('ZADD', due, now, unit)
  redis.call('HSET', unit_hash, 'trigger', trigger)
end
return 1
