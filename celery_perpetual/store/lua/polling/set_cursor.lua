-- Set or forget the cursor of a unit, unless a poll of it is open: that poll would overwrite it.
--
-- KEY   unit_hash  hash  the unit
-- KEY   cursors    set   units that have a cursor
-- ARG   unit       text  name of the unit
-- ARG   cursor     JSON  the new cursor, '' = forget it
-- returns 1 done, 0 a poll is open
-- include now
local open = redis.call('HMGET', unit_hash, 'claim', 'claim_until')
if open[1] and tonumber(open[2]) > now then
  return 0
end
if cursor == '' then
  redis.call('HDEL', unit_hash, 'cursor')
  redis.call('SREM', cursors, unit)
else
  redis.call('HSET', unit_hash, 'cursor', cursor)
  redis.call('SADD', cursors, unit)
end
return 1
