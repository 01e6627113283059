-- Remove a unit that no leader has known for long. A unit with items in flight stays, and so do the cursor of one whose
-- task is gone, and the items that its tasks have named and no poll has enqueued yet.
--
-- KEY   unit_hash  hash  the unit
-- KEY   units      zset  unit -> last seen
-- KEY   due        zset  unit -> next poll
-- KEY   polls      list  outcomes of the unit
-- KEY   failed     zset  item key -> until when it is held back
-- KEY   failures   hash  item key -> what is known of its failures
-- KEY   follow_ups list records that after_success has named
-- KEY   tenants    hash  tenants of its task, as last found
-- KEY   cursors    set   units that have a cursor
-- KEY   paused     hash  scope -> JSON
-- ARG   unit       text  name of the unit
-- ARG   tenant     text  name of its tenant, '' = none
-- ARG   age        ms    how long no leader may have known it
-- ARG   departed   flag  1 = its tenant is gone: cursor and pause go too
-- returns 1 removed, 2 reduced to its cursor, 0 left alone
-- include now
local seen = tonumber(redis.call('ZSCORE', units, unit))
local cursor, in_flight = unpack(redis.call('HMGET', unit_hash, 'cursor', 'inflight'))
if not seen or seen > now - age or (tonumber(in_flight) or 0) > 0
  or (not departed and redis.call('LLEN', follow_ups) > 0) then
  return 0
end
redis.call('DEL', unit_hash, polls, failed, failures, follow_ups)
redis.call('ZREM', due, unit)
if tenant ~= '' then
  redis.call('HDEL', tenants, tenant)
end
if departed then
  redis.call('SREM', cursors, unit)
  redis.call('HDEL', paused, unit)
elseif cursor then
  redis.call('HSET', unit_hash, 'cursor', cursor)
  return 2
end
redis.call('ZREM', units, unit)
return 1
