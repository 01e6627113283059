-- Take a task for lost that nobody has: it is not finished, not executed, and its message is nowhere any more, or was in
-- the hands of a worker that died as soon as it had received it.
--
-- KEYS[1] leases       hash    task id -> lease
-- KEYS[2] states       hash    task id -> state
-- KEYS[3] copies       hash    task id -> message
-- KEYS[4] parked       hash    task id -> JSON
-- KEYS[5] resend       zset    tasks to be sent again
-- KEYS[6] events       stream
-- KEYS[7] counters     hash    of the namespace
-- KEYS[8] chunk        list    records
-- KEYS[9] done         string  bitmap of items that have ended
-- ARGV[1] id           text    task id
-- ARGV[2] position     int     of the item within its chunk, -1 where the id is not ours
-- ARGV[3] task         text    name of the task
-- ARGV[4] most         int     recoveries before it is parked
-- ARGV[5] on_lost      text    requeue, fail or park
-- ARGV[6] recoveries   int     how many it had when it was looked at
-- ARGV[7] prefix       text    of all keys
-- ARGV[8] maxlen       int     cap of the stream
-- ARGV[9] record_ttl   ms      how long a provisional record stays
-- ARGV[10] queue_ttl   ms      how long the queue stays
-- ARGV[11] counts      text    1 = as a recovery
-- ARGV[12] tag         text    delivery tag of the message, where the broker still has it
-- ARGV[13] copy        JSON    the message, where the ledger cannot build it
-- returns 'resend', 'fail', 'parked', or 'gone' where it is not what it was any more
local leases, states, copies, parked, resend = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, counters, chunk, done = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local id, position, task, most, on_lost = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local counts, tag, copy = ARGV[11] == '1', ARGV[12], ARGV[13]
local recoveries, prefix, maxlen, record_ttl, queue_ttl = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9], ARGV[10]
-- include now
-- include rfc3339
-- include lease
-- include lose
local state = state_of(redis.call('HGET', states, id))
if redis.call('HEXISTS', leases, id) == 1 or (position >= 0 and (not redis.call('LINDEX', chunk, position)
  or redis.call('GETBIT', done, position) == 1)) or (state and state.recoveries or 0) ~= recoveries
  or (state and state.flag ~= 'run' and state.flag ~= 'wait') then
  return 'gone'
end
local lease = string.format('nobody||%d|%d|0|%.0f|%s|%s|%s|%s', state and state.nesting or 0, state and state.retries or 0,
  now, most, on_lost, tag, task)
local reason = tag == '' and 'its message is nowhere any more' or 'its worker died when it had received it'
local plan = plan_losses('nobody', {id}, {lease}, counts, reason, 1)
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
end
lose(plan)
return plan.flag
