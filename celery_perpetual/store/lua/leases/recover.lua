-- Let a parked task run again: it goes onto the list of those that are sent again, and its recoveries begin anew.
-- Whoever asks for it meanwhile sees it pending.
--
-- KEYS[1] states       hash    task id -> state
-- KEYS[2] parked       hash    task id -> JSON
-- KEYS[3] resend       zset    tasks to be sent again
-- KEYS[4] completion   string  the provisional record
-- KEYS[5] queue        list    one element for whoever blocks on it
-- ARGV[1] id           text    task id
-- returns 1 it will be sent, 0 it is not parked
local states, parked, resend, completion, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]
-- include now
-- include lease
local state = state_of(redis.call('HGET', states, id))
if redis.call('HEXISTS', parked, id) == 0 then
  -- A repeated call finds it on the list already.
  return redis.call('ZSCORE', resend, id) and 1 or 0
end
redis.call('HDEL', parked, id)
redis.call('DEL', completion, queue)
state = state or {nesting = 0, retries = 0, tag = '', task = ''}
state.flag, state.recoveries = 'resend', 0
redis.call('HSET', states, id, state_text(state))
redis.call('ZADD', resend, now, id)
return 1
