-- End an execution that brought no end of its task: its process is gone, its worker stops, it was retried or replaced,
-- or an operator takes it away. The nonce is that of the delivery: for another execution nothing happens.
--
-- KEY   leases          hash    task id -> lease
-- KEY   states          hash    task id -> state
-- KEY   copies          hash    task id -> message
-- KEY   parked          hash    task id -> JSON
-- KEY   resend          zset    tasks to be resent
-- KEY   events          stream
-- KEY   counters        hash    of the namespace
-- KEY   unacked         hash    delivery tag -> message: what the broker has as received
-- KEY   unacked_index   zset    delivery tag -> when it was received
-- ARG   id              text    task id
-- ARG   nonce           text    of the delivery, '*' = that of the lease, whichever it is
-- ARG   cause           text    lost (counts), stopped, taken, back (the broker has it), wait (retry), delegated, or
--                               overrun (its time limit is over: nothing happens unless it has a successor)
-- ARG   reason          text    for people
-- ARG   tag             text    of the message to acknowledge, '' = Celery does
-- ARG   copy            JSON    with 'back': what it has sent under its own id, '' = nothing, or it is not known
-- ARG   keeps           flag    1 = its successor has its id, and the message on record is kept until that begins
-- ARG   prefix          text    of all keys
-- ARG   events_maxlen   text    cap of the stream
-- ARG   completion_ttl  text    ms: how long a provisional record stays
-- ARG   queue_ttl       text    ms: how long the queue stays
-- returns 'gone' (no such lease), 'none' (with 'overrun': it has no successor), 'resend' (with 'back': what it has sent
-- under its own id has come before its end), 'succeeded' (its successor is resent), 'fail', 'parked', or 'released'
-- include now
-- include rfc3339
-- include lease
-- include lose
-- include acknowledge
local text = redis.call('HGET', leases, id)
if tag ~= '' then
  acknowledge(unacked, unacked_index, tag)
end
local lease = lease_of(text)
if not lease or (nonce ~= '*' and lease.nonce ~= nonce) then
  return 'gone'
end
local plan = plan_losses(lease.worker, {id}, {text}, cause == 'lost', reason, 1)
local state = state_of(redis.call('HGET', states, id))
if cause == 'overrun' then
  -- A replacement of several messages was perhaps not sent: the task would run once more, in spite of its limit.
  if not plan.has_successor or state.tag ~= '' then
    return 'none'
  end
  cause = 'stopped'
end
if cause == 'lost' or cause == 'stopped' or cause == 'taken' then
  lose(plan)
  return plan.flag == 'resend' and plan.has_successor and 'succeeded' or plan.flag
end
local has_come = cause == 'back' and state and state.flag == 'came'
-- A replacement under its own id is found where it is lost, as a retry is: the message is at hand.
local flag = has_come and 'resend' or cause == 'back' and 'run' or keeps and 'wait' or cause
local nesting, retries = following(lease, cause)
if has_come then
  if copy ~= '' then
    redis.call('HSET', copies, id, copy)
  end
  redis.call('ZADD', resend, now, id)
elseif not keeps then
  redis.call('HDEL', copies, id)
end
redis.call('HDEL', leases, id)
redis.call('SREM', prefix .. ':held:' .. lease.worker, id)
redis.call('HSET', states, id, state_text({nesting = nesting, retries = retries,
  recoveries = state and state.recoveries or 0, flag = flag, tag = '', task = lease.task}, now))
return has_come and 'resend' or 'released'
