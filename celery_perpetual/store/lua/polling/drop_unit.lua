-- Remove a unit that no leader has known for long. Its cursor stays, and so does a unit with items in flight.
--
-- KEY   key    hash  the unit
-- KEY   units  zset  unit -> last seen
-- KEY   due    zset  unit -> next poll
-- KEY   polls  list  outcomes of the unit
-- ARG   unit   text  name of the unit
-- ARG   age    ms    how long no leader may have known it
-- returns 1 removed, 2 reduced to its cursor, 0 left alone
-- include now
local seen = tonumber(redis.call('ZSCORE', units, unit))
local known = redis.call('HMGET', key, 'cursor', 'inflight')
if not seen or seen > now - age or (tonumber(known[2]) or 0) > 0 then
  return 0
end
redis.call('DEL', key, polls)
redis.call('ZREM', due, unit)
if known[1] then
  redis.call('HSET', key, 'cursor', known[1])
  return 2
end
redis.call('ZREM', units, unit)
return 1
