-- Pause one scope. Pausing again replaces reason and end.
--
-- KEY   paused         hash    scope -> JSON
-- KEY   events         stream
-- KEY   receipt        string  the pause that this very call has replaced
-- ARG   scope          text    a unit, or '*' for everything
-- ARG   pause          JSON    by, reason, at, until
-- ARG   events_maxlen  text    cap of the stream
-- ARG   receipt_ttl    text    ms: longer than a client repeats a call
-- returns the pause that it replaces, '' where there was none or this one; the same when it is sent twice
local said = redis.call('GET', receipt)
if said then
  return said
end
local before = redis.call('HGET', paused, scope)
if before ~= pause then
  redis.call('HSET', paused, scope, pause)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'pause', 'data', pause)
end
local replaced = before and before ~= pause and before or ''
redis.call('SET', receipt, replaced, 'PX', receipt_ttl)
return replaced
