-- Let a parked task run again: it goes onto the list of tasks to be resent, and its recoveries begin anew.
-- A waiter sees it pending meanwhile.
--
-- KEY   states      hash    task id -> state
-- KEY   parked      hash    task id -> JSON
-- KEY   parked_at   zset    task id -> since when it is parked
-- KEY   resend      zset    tasks to be resent
-- KEY   completion  string  the provisional record
-- KEY   queue       list    one element to block on
-- ARG   id          text    task id
-- returns 1 it will be resent, 0 it is not parked
-- include now
-- include lease
local state = state_of(redis.call('HGET', states, id))
if redis.call('HEXISTS', parked, id) == 0 then
  -- A repeated call finds it on the list already.
  return redis.call('ZSCORE', resend, id) and 1 or 0
end
redis.call('HDEL', parked, id)
redis.call('ZREM', parked_at, id)
redis.call('DEL', completion, queue)
state = state or {nesting = 0, retries = 0, tag = '', task = ''}
state.flag, state.recoveries = 'resend', 0
redis.call('HSET', states, id, state_text(state, now))
redis.call('ZADD', resend, now, id)
return 1
