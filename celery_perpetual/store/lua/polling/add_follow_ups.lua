-- Keep the records of items that a task has named when it succeeded, for the next poll of its unit, and let that come at
-- once. A unit that backs off is left to do so.
--
-- KEY   unit_hash    hash    the unit
-- KEY   due          zset    unit -> next poll
-- KEY   units        zset    unit -> last seen
-- KEY   follow_ups   list    records
-- KEY   receipt      string  says that this very call was made
-- ARG   unit         text    name of the unit
-- ARG   trigger      text    why it is polled
-- ARG   receipt_ttl  text    ms: longer than a client repeats a call
-- ARGS  records      text    records
-- returns 1
-- include now
-- include poll_soon
if redis.call('EXISTS', receipt) == 1 then
  return 1
end
redis.call('RPUSH', follow_ups, unpack(ARGV, records_at))
redis.call('SET', receipt, 1, 'PX', receipt_ttl)
redis.call('ZADD', units, 'NX', now, unit)
if (tonumber(redis.call('HGET', unit_hash, 'backoff')) or 0) <= now then
  poll_soon(unit_hash, due, unit, trigger)
end
return 1
