-- Park an item of a committed batch that cannot be published. Nothing happens where it has ended, runs or is parked.
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
-- ARG   reason          text    for people
-- ARG   prefix          text    of all keys
-- ARG   events_maxlen   text    cap of the stream
-- ARG   completion_ttl  text    ms: how long a provisional record stays
-- ARG   queue_ttl       text    ms: how long the queue stays
-- returns 1 it is parked now, 0 nothing was done
-- include now
-- include rfc3339
-- include lease
-- include lose
if not redis.call('LINDEX', chunk, position) or redis.call('GETBIT', done, position) == 1
  or redis.call('HEXISTS', leases, id) == 1 or redis.call('HEXISTS', states, id) == 1 then
  return 0
end
must_be(prefix .. ':completion:' .. id, 'string')
must_be(prefix .. ':done:' .. id .. ':queue', 'list')
park(id, {worker = '', nesting = 0, retries = 0, token = '0', started = now, tag = '', task = task}, 0, reason)
return 1
