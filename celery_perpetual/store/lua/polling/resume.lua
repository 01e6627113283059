-- End the pause of one scope; the units that are named are polled at once.
--
-- KEY   paused         hash    scope -> JSON
-- KEY   due            zset    unit -> next poll
-- KEY   events         stream
-- KEY   receipt        string  says that this very call has ended a pause
-- ARG   scope          text    a unit, or '*' for everything
-- ARG   about          JSON    for the event
-- ARG   events_maxlen  text    cap of the stream
-- ARG   receipt_ttl    text    ms: longer than a client repeats a call
-- ARG   unit_prefix    text    what the keys of unit hashes start with
-- ARGS  units          text    units to poll at once
-- returns 1 if the scope was paused, else 0; the same when it is sent twice
-- include now
-- include pause_holds
-- include types
for i = units_at, #ARGV do
  must_be(unit_prefix .. ARGV[i], 'hash')
end
if redis.call('EXISTS', receipt) == 1 then
  return 1
end
if not holds(redis.call('HGET', paused, scope)) then
  return 0
end
redis.call('HDEL', paused, scope)
redis.call('SET', receipt, 1, 'PX', receipt_ttl)
redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'resume', 'data', about)
for i = units_at, #ARGV do
  local at = tonumber(redis.call('ZSCORE', due, ARGV[i]))
  if at and redis.call('HGET', unit_prefix .. ARGV[i], 'claim') then
    redis.call('HSET', unit_prefix .. ARGV[i], 'nudged', 'resume')
  elseif at and at > now then
    redis.call('ZADD', due, now, ARGV[i])
    redis.call('HSET', unit_prefix .. ARGV[i], 'trigger', 'resume')
  end
end
return 1
