-- Report that an item has waited too long for a worker; once for each time at which it became runnable. Nothing happens
-- where it has been started, has ended or is parked.
--
-- KEY   leases         hash    task id -> lease
-- KEY   states         hash    task id -> state
-- KEY   events         stream
-- KEY   batch          hash    its batch
-- KEY   chunk          list    records
-- KEY   done           string  bitmap of items that have ended
-- ARG   id             text    task id
-- ARG   position       int     of the item within its chunk
-- ARG   index          text    of the item within its batch
-- ARG   seen           text    ms: when the state was written that the caller has read, '' = there was none
-- ARG   since          text    ms: since when it is runnable
-- ARG   about          JSON    for the event
-- ARG   events_maxlen  text    cap of the stream
-- returns 1 reported, 0 not
-- include lease
-- include still_waits
local field = 'starved:' .. index
if not still_waits() or redis.call('HGET', batch, field) == since then
  return 0
end
redis.call('HSET', batch, field, since)
redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'starvation.starved', 'data', about)
return 1
