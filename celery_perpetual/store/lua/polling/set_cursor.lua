-- Set or forget the cursor of a unit, unless a poll of it is open: that poll would overwrite it.
--
-- KEYS[1] key      hash  the unit
-- KEYS[2] cursors  set   units that have a cursor
-- ARGV[1] unit     text  name of the unit
-- ARGV[2] cursor   JSON  the new cursor, '' = forget it
-- returns 1 done, 0 a poll is open
local key, cursors = KEYS[1], KEYS[2]
local unit, cursor = ARGV[1], ARGV[2]
-- include now
local open = redis.call('HMGET', key, 'claim', 'claim_until')
if open[1] and tonumber(open[2]) > now then
  return 0
end
if cursor == '' then
  redis.call('HDEL', key, 'cursor')
  redis.call('SREM', cursors, unit)
else
  redis.call('HSET', key, 'cursor', cursor)
  redis.call('SADD', cursors, unit)
end
return 1
