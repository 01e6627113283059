-- Declare a task lost that no process has: it has not ended, no worker executes it, and its message is nowhere any more, or
-- was in the hands of a worker that died as soon as it had received it.
--
-- KEY   leases          hash    task id -> lease
-- KEY   states          hash    task id -> state
-- KEY   copies          hash    task id -> message
-- KEY   parked          hash    task id -> JSON
-- KEY   resend          zset    tasks to be resent
-- KEY   events          stream
-- KEY   counters        hash    of the namespace
-- KEY   chunk           list    records
-- KEY   done            string  bitmap of items that have ended
-- ARG   id              text    task id
-- ARG   position        int     of the item within its chunk, -1 where it is none
-- ARG   task            text    name of the task
-- ARG   most            text    recoveries before it is parked
-- ARG   on_lost         text    requeue, fail or park
-- ARG   recoveries      int     how many it had when it was read
-- ARG   prefix          text    of all keys
-- ARG   events_maxlen   text    cap of the stream
-- ARG   completion_ttl  text    ms: how long a provisional record stays
-- ARG   queue_ttl       text    ms: how long the queue stays
-- ARG   counts          flag    1 = as a recovery
-- ARG   tag             text    delivery tag of the message, where the broker still has it
-- ARG   copy            JSON    the message, where the ledger cannot build it
-- ARG   tombs_prefix    text    what the keys of tombstones start with
-- returns 'resend', 'fail', 'parked', or 'gone' where the task has changed since it was read
-- include now
-- include rfc3339
-- include lease
-- include lose

-- A loss is planned from a lease, and names its worker. Here is no lease, and the worker that died is not known.
local NO_WORKER = 'nobody'
-- Flags of tasks without a lease whose message is on its way.
local WAITING = {run = true, wait = true, back = true, came = true}

local state = state_of(redis.call('HGET', states, id))
if redis.call('HEXISTS', leases, id) == 1 or (position >= 0 and (not redis.call('LINDEX', chunk, position)
  or redis.call('GETBIT', done, position) == 1)) or (state and state.recoveries or 0) ~= recoveries
  or (state and not WAITING[state.flag]) then
  return 'gone'
end
if position < 0 and not state then
  -- A state would hide from the next delivery that the task has ended.
  -- include tombs
  if has_tomb(1) then  -- as far back as start.lua looks: an older one is of an earlier use of the id
    return 'gone'
  end
end
local lease = string.format('%s||%d|%d|0|0|%.0f|%s|%s|%s|%s', NO_WORKER, state and state.nesting or 0,
  state and state.retries or 0, now, most, on_lost, tag, task)
local reason = tag == '' and 'its message is nowhere any more' or 'its worker died when it had received it'
local plan = plan_losses(NO_WORKER, {id}, {lease}, counts, reason, 1)
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
end
lose(plan)
return plan.flag
