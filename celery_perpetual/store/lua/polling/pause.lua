-- Pause one scope. Pausing again replaces reason and end.
--
-- KEYS[1] paused  hash    scope -> JSON
-- KEYS[2] events  stream
-- ARGV[1] scope   text    a unit, or '*' for everything
-- ARGV[2] pause   JSON    by, reason, at, until
-- ARGV[3] maxlen  int     cap of the stream
-- returns 1
local paused, events = KEYS[1], KEYS[2]
local scope, pause, maxlen = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', paused, scope) ~= pause then
  redis.call('HSET', paused, scope, pause)
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'pause', 'data', pause)
end
return 1
