-- End the pause of one scope; the units that are named are polled at once.
--
-- KEYS[1] paused       hash    scope -> JSON
-- KEYS[2] due          zset    unit -> next poll
-- KEYS[3] events       stream
-- ARGV[1] scope        text    a unit, or '*' for everything
-- ARGV[2] about        JSON    for the event
-- ARGV[3] maxlen       int     cap of the stream
-- ARGV[4] unit_prefix  text    what the keys of unit hashes start with
-- ARGV[5..] unit       text    units to poll at once
-- returns 1 if the scope was paused, else 0
local paused, due, events = KEYS[1], KEYS[2], KEYS[3]
local scope, about, maxlen, unit_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include now
-- include typed
for i = 5, #ARGV do
  must_be(unit_prefix .. ARGV[i], 'hash')
end
local removed = redis.call('HDEL', paused, scope)
if removed == 1 then
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'resume', 'data', about)
  for i = 5, #ARGV do
    local at = tonumber(redis.call('ZSCORE', due, ARGV[i]))
    if at and at > now then
      redis.call('ZADD', due, now, ARGV[i])
      redis.call('HSET', unit_prefix .. ARGV[i], 'trigger', 'resume')
    end
  end
end
return removed
