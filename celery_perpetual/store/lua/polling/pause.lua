-- Pause one scope. Pausing again replaces reason and end.
--
-- KEY   paused         hash    scope -> JSON
-- KEY   events         stream
-- ARG   scope          text    a unit, or '*' for everything
-- ARG   pause          JSON    by, reason, at, until
-- ARG   events_maxlen  text    cap of the stream
-- returns the pause that it replaces, '' where there was none or this one
local before = redis.call('HGET', paused, scope)
if before ~= pause then
  redis.call('HSET', paused, scope, pause)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'pause', 'data', pause)
end
return before and before ~= pause and before or ''
