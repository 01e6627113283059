-- Remove every routine, in whatever state.
--
-- KEY   routines          hash    routine -> record
-- KEY   routines_due      zset    routine -> when it runs next
-- KEY   routines_running  zset    routine that runs now -> its slot
-- KEY   routines_inline   zset    routine that its caller runs -> until when that is believed
-- KEY   routines_pauses   zset    paused routine -> when its pause ends by itself
-- KEY   routines_updated  zset    routine -> when it was changed last
-- KEY   routines_over     zset    routine that has ended -> when it is forgotten
-- KEY   routines_keys     hash    idempotency key -> routine
-- KEY   events            stream
-- ARG   events_maxlen     text    cap of the stream
-- returns how many there were
-- include now
-- include rfc3339
local count = redis.call('HLEN', routines)
redis.call('UNLINK', routines, routines_due, routines_running, routines_inline, routines_pauses, routines_updated, routines_over,
  routines_keys)
if count > 0 then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'routine.cleared', 'data',
    cjson.encode({at = rfc3339(now), count = count}))
end
return count
