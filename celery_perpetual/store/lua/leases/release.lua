-- End an execution that brought no end of its task: its process is gone, its worker stops, it was retried or replaced,
-- or an operator takes it away. The nonce is that of the delivery: for another execution nothing happens.
--
-- KEYS[1] leases       hash    task id -> lease
-- KEYS[2] states       hash    task id -> state
-- KEYS[3] copies       hash    task id -> message
-- KEYS[4] parked       hash    task id -> JSON
-- KEYS[5] resend       zset    tasks to be sent again
-- KEYS[6] events       stream
-- KEYS[7] counters     hash    of the namespace
-- ARGV[1] id           text    task id
-- ARGV[2] nonce        text    of the delivery, '*' = whoever holds it
-- ARGV[3] cause        text    lost (counts), stopped, taken, back (the broker has it), wait (retry) or delegated
-- ARGV[4] reason       text    for people
-- ARGV[5] prefix       text    of all keys
-- ARGV[6] maxlen       int     cap of the stream
-- ARGV[7] record_ttl   ms      how long a provisional record stays
-- ARGV[8] queue_ttl    ms      how long the queue stays
-- returns 'gone' (no such lease), 'resend', 'fail', 'parked', or 'released'
local leases, states, copies, parked, resend = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, counters = KEYS[6], KEYS[7]
local id, nonce, cause, reason, prefix, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local record_ttl, queue_ttl = ARGV[7], ARGV[8]
-- include now
-- include rfc3339
-- include lease
-- include lose
local text = redis.call('HGET', leases, id)
local lease = lease_of(text)
if not lease or (nonce ~= '*' and lease.nonce ~= nonce) then
  return 'gone'
end
local plan = plan_losses(lease.worker, {id}, {text}, cause == 'lost', reason, 1)
if cause == 'lost' or cause == 'stopped' or cause == 'taken' then
  lose(plan)
  return plan.flag
end
local state = state_of(redis.call('HGET', states, id))
local flag = cause == 'back' and 'run' or cause
local nesting, retries = lease.nesting, lease.retries
if cause == 'wait' then
  retries = retries + 1
elseif cause == 'delegated' then
  nesting, retries = nesting + 1, 0
end
redis.call('HDEL', leases, id)
redis.call('HDEL', copies, id)
redis.call('SREM', prefix .. ':held:' .. lease.worker, id)
redis.call('HSET', states, id, state_text({nesting = nesting, retries = retries,
  recoveries = state and state.recoveries or 0, flag = flag, tag = '', task = lease.task}))
return 'released'
