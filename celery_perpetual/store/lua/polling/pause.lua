-- Pause one scope. Pausing again replaces reason and end.
--
-- KEY   paused         hash    scope -> JSON
-- KEY   events         stream
-- ARG   scope          text    a unit, or '*' for everything
-- ARG   pause          JSON    by, reason, at, until
-- ARG   events_maxlen  text    cap of the stream
-- returns 1
if redis.call('HGET', paused, scope) ~= pause then
  redis.call('HSET', paused, scope, pause)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'pause', 'data', pause)
end
return 1
