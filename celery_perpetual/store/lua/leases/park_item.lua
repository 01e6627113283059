-- Park an item of a committed batch that no worker can start. Nothing happens where it has ended, runs, is parked, or has
-- been sent once more meanwhile.
--
-- KEY   leases          hash    task id -> lease
-- KEY   states          hash    task id -> state
-- KEY   parked          hash    task id -> JSON
-- KEY   resend          zset    tasks to be resent
-- KEY   events          stream
-- KEY   counters        hash    of the namespace
-- KEY   chunk           list    records
-- KEY   done            string  bitmap of items that have ended
-- ARG   id              text    task id
-- ARG   position        int     of the item within its chunk
-- ARG   task            text    name of the task
-- ARG   seen            text    ms: when the state was written that the caller has read, '' = there was none
-- ARG   reason          text    for people
-- ARG   starved         JSON    for the event that it has starved, '' = it cannot be published
-- ARG   prefix          text    of all keys
-- ARG   events_maxlen   text    cap of the stream
-- ARG   completion_ttl  text    ms: how long a provisional record stays
-- ARG   queue_ttl       text    ms: how long the queue stays
-- returns 1 it is parked now, 0 nothing was done
-- include now
-- include rfc3339
-- include lease
-- include lose
-- include still_waits
if not still_waits() then
  return 0
end
must_be(prefix .. ':completion:' .. id, 'string')
must_be(prefix .. ':done:' .. id .. ':queue', 'list')
probe('ZCARD', prefix .. ':parked:at')
local state = state_of(redis.call('HGET', states, id)) or {nesting = 0, retries = 0, recoveries = 0, tag = '', task = task}
park(id, {worker = '', nesting = state.nesting, retries = state.retries, token = '0', started = now, tag = state.tag,
  task = state.task}, state.recoveries, reason)
if starved ~= '' then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'starvation.parked', 'data', starved)
end
return 1
