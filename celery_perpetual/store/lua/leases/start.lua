-- Ask for the right to execute a task, before any code of its user runs. The nonce names the delivery that asks, so
-- that a repeated call answers the same. A message that is to be acknowledged before its task runs is acknowledged in this
-- step, whatever the answer: by then the task can be resent without it, or need not be.
--
-- KEY   leases          hash*    task id -> lease
-- KEY   held            set*     what this worker holds
-- KEY   states          hash*    task id -> state
-- KEY   copies          hash*    task id -> message, where the ledger cannot build it
-- KEY   resend          zset*    tasks to be resent
-- KEY   completion      string*  the record of the task
-- KEY   queue           list*    its element to block on
-- KEY   batch           hash*    its batch, if it is an item
-- KEY   chunk           list*    records
-- KEY   done            string*  bitmap of items that have ended
-- KEY   token           string*  the last token
-- KEY   counters        hash*    of the namespace
-- KEY   workers         zset*    worker -> deadline
-- KEY   events          stream*
-- KEY   unacked         hash*    delivery tag -> message
-- KEY   unacked_index   zset*    delivery tag -> when it was received
-- ARG   id              text     task id
-- ARG   position        int      of the item within its chunk, -1 where it is none
-- ARG   worker          text     instance of the worker
-- ARG   nonce           text     of this delivery
-- ARG   nesting         int      how often the task has replaced itself
-- ARG   retries         int      how often it was retried
-- ARG   most            text     recoveries before it is parked
-- ARG   on_lost         text     requeue, fail or park
-- ARG   tag             text     delivery tag of the message
-- ARG   task            text     name of the task
-- ARG   copy            JSON     the message, '' where the ledger can build it
-- ARG   ended           flag     1 = an id that has ended does not run again; 0 = its user uses it once more
-- ARG   tombs_prefix    text     what the keys of tombstones start with
-- ARG   tombstone_days  int      how many days of tombstones there are
-- ARG   lease_ttl       text     ms: lease time
-- ARG   events_maxlen   text     cap of the stream
-- ARG   acknowledges    flag     1 = acknowledge the message
-- returns {verdict, token, recoveries}; the verdict is 'run', or why not: 'final', 'parked', 'old' or 'adopted'
local asked = {nesting = nesting, retries = retries}
-- include now
-- include rfc3339
-- include lease
-- include has_ended
-- include new_lease
-- include add_recovery
-- include types
-- include acknowledge

local lease, state = lease_of(redis.call('HGET', leases, id)), state_of(redis.call('HGET', states, id))
local recoveries = state and state.recoveries or 0
if lease and lease.nonce == nonce then
  return {'run', lease.token, recoveries}
end

local function refuse(verdict)
  redis.call('HINCRBY', counters, 'dropped_' .. verdict, 1)
  if acknowledges then
    acknowledge(unacked, unacked_index, tag)
  end
  return {verdict, '0', recoveries}
end

local is_over = has_ended()
if ended and is_over then
  return refuse('final')
end
if state and state.flag == 'fail' then
  return refuse('final')  -- its end as lost is about to be announced
end
if state and state.flag == 'parked' then
  if copy ~= '' then
    probe('HLEN', counters)
    redis.call('HSETNX', copies, id, copy)
  end
  return refuse('parked')
end
local newest = lease and (not state or order(state, lease) < 0) and lease or state
if newest and order(asked, newest) < 0 then
  return refuse('old')
end
if lease and order(asked, lease) == 0 then
  -- All that is needed to resend it has been kept since the lease began, so this message may be acknowledged.
  return refuse('adopted')
end

-- Every key that is written to is probed first.
local held_before = lease and string.sub(held, 1, -#worker - 1) .. lease.worker
local waits = state and state.flag == 'resend'
local is_new_use = is_over and not lease and not state
if is_new_use then
  must_be(queue, 'list')
end
if held_before then
  must_be(held_before, 'set')
end
probe('SCARD', held)
local deadline = redis.call('ZSCORE', workers, worker)
if copy ~= '' or lease or state then
  probe('HLEN', copies)
end
if waits then
  probe('ZCARD', resend)
  probe('HLEN', counters)
  probe('XLEN', events)
end

local granted = redis.call('INCR', token)
if is_new_use then
  -- Its end, and its retries, are those of this use.
  redis.call('DEL', completion, queue)
  remove_tombs(tombstone_days)
end
if not deadline then
  -- A worker that has not reported yet must be found by the sweep too.
  redis.call('ZADD', workers, string.format('%.0f', now + lease_ttl), worker)
end
if held_before then
  redis.call('SREM', held_before, id)
end
redis.call('HSET', leases, id, new_lease(granted))
redis.call('SADD', held, id)
if waits then
  add_recovery(id, state)  -- the broker was faster than the list of what is to be sent
  redis.call('ZREM', resend, id)
end
if state then
  state.nesting, state.retries, state.flag = asked.nesting, asked.retries, 'run'
  redis.call('HSET', states, id, state_text(state, now))
end
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
elseif lease or state then
  redis.call('HDEL', copies, id)
end
if acknowledges then
  acknowledge(unacked, unacked_index, tag)
end
return {'run', tostring(granted), recoveries}
