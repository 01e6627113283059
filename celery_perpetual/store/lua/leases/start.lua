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
-- ARG   lease_begins    text     what its lease says before its token, see include/lease.lua
-- ARG   lease_ends      text     what its lease says after the time of its start
-- ARG   copy            JSON     the message, '' where the ledger can build it
-- ARG   ended           flag     1 = an id that has ended does not run again; 0 = its user uses it once more
-- ARG   tombs_prefix    text     what the keys of tombstones start with
-- ARG   tombstone_days  int      how many days of tombstones there are
-- ARG   lease_ttl       text     ms: lease time
-- ARG   events_maxlen   text     cap of the stream
-- ARG   acknowledges    flag     1 = acknowledge the message
-- returns {verdict, token, recoveries}; the verdict is 'run', or why not: 'final', 'parked', 'old' or 'adopted'
-- include now
-- include acknowledge
-- include asked

-- Nearly always nothing is known of a task that starts, so what only others need is made where it is needed.
local lease, state = redis.call('HGET', leases, id), redis.call('HGET', states, id)
-- A first delivery of an id that the user has chosen may be a new use of it, which a tombstone from before yesterday does not
-- concern: no script looks for such a one where it has a lease or a state.
local days = ended and tombstone_days or 1
-- include has_ended
local recoveries, verdict, held_before, new_state, came = 0
if lease or state then
  -- include lease
  local nonce, nesting, retries = asked_order()
  lease, state = lease_of(lease), state_of(state)
  recoveries = state and state.recoveries or 0
  if lease and lease.nonce == nonce then
    return {'run', lease.token, recoveries}
  end
  local asked = {nesting = tonumber(nesting), retries = tonumber(retries)}
  local newest = lease and (not state or order(state, lease) < 0) and lease or state
  if ended and is_over then
    verdict = 'final'
  elseif state and state.flag == 'fail' then
    verdict = 'final'  -- its end as lost is about to be announced
  elseif state and state.flag == 'parked' then
    verdict = 'parked'
  elseif order(asked, newest) < 0 then
    verdict = 'old'
  elseif lease and order(asked, lease) == 0 then
    -- All that is needed to resend it has been kept since the lease began, so this message may be acknowledged.
    verdict = 'adopted'
    if state and state.flag == 'back' then
      -- The task has sent this message by itself. If its body ends by handing on the task, the message comes once more.
      state.flag = 'came'
      came = state_text(state, state.since)
    end
  end
  held_before = lease and string.sub(held, 1, -#worker - 1) .. lease.worker
  if state then
    new_state = state_text({nesting = asked.nesting, retries = asked.retries, recoveries = recoveries, flag = 'run',
      tag = state.tag, task = state.task}, now)
  end
elseif ended and is_over then
  verdict = 'final'
elseif is_over then
  -- It is used once more, unless this is a late copy of the call by which a delivery asked that has ended.
  local nonce, hour = asked_order(), math.floor(now / 3600000)
  if redis.call('SISMEMBER', tombs_prefix .. 'of:' .. hour, nonce) == 1
    or redis.call('SISMEMBER', tombs_prefix .. 'of:' .. (hour - 1), nonce) == 1 then
    verdict = 'final'
  end
end

if verdict then
  if verdict == 'parked' and copy ~= '' then
    redis.call('HLEN', counters)
    redis.call('HSETNX', copies, id, copy)
  end
  redis.call('HINCRBY', counters, 'dropped_' .. verdict, 1)
  if came then
    redis.call('HSET', states, id, came)
  end
  if acknowledges then
    acknowledge(unacked, unacked_index, asked_tag())
  end
  return {verdict, '0', recoveries}
end

-- Every key that is written to is probed first, but for the set of the worker, which is the first to be written to, and
-- the token: where that is none, the set is left as it was.
local is_known = lease or state
local is_new_use = is_over and not is_known
local waits = state and state.flag == 'resend'
if is_new_use or held_before then
  -- include types
  must_be(queue, 'list')
  must_be(held_before or held, 'set')
end
if copy ~= '' or is_known then
  redis.call('HLEN', copies)
end
if waits then
  redis.call('ZCARD', resend)
  redis.call('HLEN', counters)
  redis.call('XLEN', events)
end
local deadline = redis.call('ZSCORE', workers, worker)

local was_added = redis.call('SADD', held, id)
local granted, has_state = redis.pcall('INCR', token), state
if type(granted) == 'table' then
  if was_added == 1 then
    redis.call('SREM', held, id)
  end
  return granted
end
granted = string.format('%d', granted)
-- include new_lease
redis.call('HSET', leases, id, new_lease)
if records and records > 8 then
  -- The next starts of the chunk need not ask for its length.
  redis.call('SETBIT', done, records - 1, '0')
end
if not deadline then
  -- A worker that has not reported yet must be found by the sweep too.
  redis.call('ZADD', workers, string.format('%.0f', now + lease_ttl), worker)
end
if is_new_use then
  -- Its end, and its retries, are those of this use.
  -- include tombs
  redis.call('DEL', completion, queue)
  remove_tombs(tombstone_days)
end
if held_before and held_before ~= held then
  redis.call('SREM', held_before, id)
end
if waits then
  -- include rfc3339
  -- include add_recovery
  add_recovery(id, state)  -- the broker was faster than the list of what is to be sent
  redis.call('ZREM', resend, id)
end
if state then
  redis.call('HSET', states, id, new_state)
end
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
elseif is_known then
  redis.call('HDEL', copies, id)
end
if acknowledges then
  acknowledge(unacked, unacked_index, asked_tag())
end
return {'run', granted, recoveries}
