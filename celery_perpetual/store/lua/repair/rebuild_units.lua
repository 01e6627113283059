-- Derive what is listed and counted of units from their hashes and from the open batches.
--
-- KEY   open         zset  unfinished batches
-- KEY   units        zset  unit -> when it was last known
-- KEY   due          zset  unit -> next poll
-- KEY   cursors      set   units that have a cursor
-- ARG   unit_prefix  text  what the keys of unit hashes start with
-- ARG   poll_prefix  text  what the keys of batches start with
-- ARGS  named        text  units, each with '1 ' before it if it is polled, '0 ' if it is known only here
-- returns how many entries were wrong: {items in flight, units, due, cursors}
-- include now
-- include types
local in_flight, found = {}, {0, 0, 0, 0}
for _, poll in ipairs(redis.call('ZRANGE', open, 0, -1)) do
  local unit, left = unpack(redis.call('HMGET', poll_prefix .. poll, 'unit', 'left'))
  if unit then
    in_flight[unit] = (in_flight[unit] or 0) + (tonumber(left) or 0)
  end
end
for i = named_at, #ARGV do
  must_be(unit_prefix .. string.sub(ARGV[i], 3), 'hash')
end
for i = named_at, #ARGV do
  local is_polled, unit = string.sub(ARGV[i], 1, 1) == '1', string.sub(ARGV[i], 3)
  local unit_hash = unit_prefix .. unit
  local counted, cursor, spec = unpack(redis.call('HMGET', unit_hash, 'inflight', 'cursor', 'spec'))
  if (tonumber(counted) or 0) ~= (in_flight[unit] or 0) then
    redis.call('HSET', unit_hash, 'inflight', in_flight[unit] or 0)
    found[1] = found[1] + 1
  end
  if string.sub(unit, 1, 10) == 'perpetual:' then
    found[2] = found[2] + redis.call('ZADD', units, 'NX', now, unit)
    found[4] = found[4] + redis.call(cursor and 'SADD' or 'SREM', cursors, unit)
  end
  if is_polled and spec then
    found[3] = found[3] + redis.call('ZADD', due, 'NX', now, unit)
  end
end
return found
