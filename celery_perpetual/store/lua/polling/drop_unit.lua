-- Remove a unit that no leader has known for long. Its cursor stays, and so does a unit with items in flight.
--
-- KEYS[1] key    hash  the unit
-- KEYS[2] units  zset  unit -> last seen
-- KEYS[3] due    zset  unit -> next poll
-- KEYS[4] polls  list  outcomes of the unit
-- ARGV[1] unit   text  name of the unit
-- ARGV[2] age    ms    how long nobody may have known it
-- returns 1 removed, 2 reduced to its cursor, 0 left alone
local key, units, due, polls = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local unit, age = ARGV[1], tonumber(ARGV[2])
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
