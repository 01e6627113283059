-- Let a unit be polled at once; it goes back to its grid afterwards. Nudging twice is one nudge.
--
-- KEYS[1] key      hash  the unit
-- KEYS[2] due      zset  unit -> next poll
-- ARGV[1] unit     text  name of the unit
-- ARGV[2] trigger  text  why
-- returns 1 if it is due now, 0 if the unit is not in the clock
local key, due = KEYS[1], KEYS[2]
local unit, trigger = ARGV[1], ARGV[2]
-- include now
local at = redis.call('ZSCORE', due, unit)
if not at then
  return 0
end
if tonumber(at) > now and not redis.call('HGET', key, 'claim') then
  redis.call('ZADD', due, now, unit)
  redis.call('HSET', key, 'trigger', trigger)
end
return 1
