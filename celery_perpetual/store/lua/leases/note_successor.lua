-- Note the successor of an execution before its message is published: the order that follows and, where the successor is one
-- message, that message. An execution that is lost from now on is succeeded by that, and not begun anew. Of an item also
-- note where the message goes. A message that the task has sent under its own id by itself has the order of the execution, and
-- is its successor only if the body says so at its end; the state says whether it has come before that.
--
-- KEY   leases       hash  task id -> lease
-- KEY   states       hash  task id -> state
-- KEY   copies       hash  task id -> message
-- KEY   batch        hash  the committed batch, if it is an item
-- ARG   id           text  task id
-- ARG   nonce        text  of the delivery
-- ARG   cause        text  wait (retry), delegated, back (the same order), '' = only the destination is noted
-- ARG   copy         JSON  the message, '' where it is not one message, or no successor yet
-- ARG   index        text  index of the item
-- ARG   destination  JSON  exchange, routing key and priority, '' where the message is of another id
-- returns 1 the successor is on record, 0 the execution has no lease
-- include now
-- include lease
local text = redis.call('HGET', leases, id)
local lease = lease_of(text)
local state = state_of(redis.call('HGET', states, id))
if destination ~= '' and redis.call('EXISTS', batch) == 1 then
  redis.call('HSET', batch, 'at:' .. index, destination, 'moved', 1)
end
if cause == '' or not lease or lease.nonce ~= nonce then
  return 0
end
local nesting, retries = following(lease, cause)
if cause == 'back' and state then
  if order(state, lease) > 0 then
    return 0  -- a retry or a replacement is on record already
  end
  cause = state.flag == 'came' and 'came' or cause
end
-- A repeated call leaves the time.
local since = state and state.flag == cause and state.nesting == nesting and state.retries == retries and state.since or now
redis.call('HSET', states, id, state_text({nesting = nesting, retries = retries, recoveries = state and state.recoveries or 0,
  flag = cause, tag = copy == '' and lease.tag or '', task = lease.task}, since))
local marked = with_state(text)
if marked ~= text then
  redis.call('HSET', leases, id, marked)
end
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
end
return 1
