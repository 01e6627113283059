-- End the pause of one scope; the units that are named are polled at once.
--
-- KEYS[1] paused       hash    scope -> JSON
-- KEYS[2] due          zset    unit -> next poll
-- KEYS[3] events       stream
-- KEYS[4] receipt      string  says that this very call has ended a pause
-- ARGV[1] scope        text    a unit, or '*' for everything
-- ARGV[2] about        JSON    for the event
-- ARGV[3] maxlen       int     cap of the stream
-- ARGV[4] receipt_ttl  ms      longer than a client repeats a call
-- ARGV[5] unit_prefix  text    what the keys of unit hashes start with
-- ARGV[6..] unit       text    units to poll at once
-- returns 1 if the scope was paused, else 0; the same when it is sent twice
local paused, due, events, receipt = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local scope, about, maxlen, receipt_ttl, unit_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include now
-- include pause_holds
-- include must_be
for i = 6, #ARGV do
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
redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'resume', 'data', about)
for i = 6, #ARGV do
  local at = tonumber(redis.call('ZSCORE', due, ARGV[i]))
  if at and at > now then
    redis.call('ZADD', due, now, ARGV[i])
    redis.call('HSET', unit_prefix .. ARGV[i], 'trigger', 'resume')
  end
end
return 1
