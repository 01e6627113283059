-- Enter a lease anew that the store has forgotten, as it has gone back to an older state: a worker says that it runs the
-- task. Nothing happens where another delivery has been granted the lease since, where the task has ended, or where a
-- script has taken the lease away, which leaves a state. The message of an early-acked task is acknowledged once more.
--
-- KEY   leases          hash    task id -> lease
-- KEY   held            set     what this worker holds
-- KEY   states          hash    task id -> state
-- KEY   copies          hash    task id -> message, where the ledger cannot build it
-- KEY   completion      string  the record of the task
-- KEY   batch           hash    its batch, if it is an item
-- KEY   chunk           list    records
-- KEY   done            string  bitmap of items that have ended
-- KEY   token           string  the last token
-- KEY   unacked         hash*   delivery tag -> message
-- KEY   unacked_index   zset*   delivery tag -> when it was received
-- ARG   id              text    task id
-- ARG   position        int     of the item within its chunk, -1 where it is none
-- ARG   worker          text    instance of the worker
-- ARG   lease_begins    text    what its lease says before its token, see include/lease.lua
-- ARG   lease_ends      text    what its lease says after the time of its start
-- ARG   copy            JSON    the message, '' where the ledger can build it
-- ARG   tombs_prefix    text    what the keys of tombstones start with
-- ARG   tombstone_days  int     how many days of tombstones there are
-- ARG   acknowledges    flag    1 = acknowledge the message
-- returns 1 if this delivery has the lease now, else 0
-- include now
-- include lease
-- include acknowledge
-- include asked
local lease = redis.call('HGET', leases, id)
if lease then
  return select(2, holder_of(lease)) == (asked_order()) and 1 or 0
end
local state, has_state, days = redis.call('HEXISTS', states, id) == 1, false, tombstone_days
-- include has_ended
if is_over or state then
  return 0
end
local granted = redis.call('INCR', token)
-- include new_lease
redis.call('HSET', leases, id, new_lease)
redis.call('SADD', held, id)
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
end
if acknowledges then
  acknowledge(unacked, unacked_index, asked_tag())
end
return 1
