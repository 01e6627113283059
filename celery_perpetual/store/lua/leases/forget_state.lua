-- Forget the state of a task that goes on nowhere, unless it has changed since it was read.
--
-- KEY   states  hash  task id -> state
-- KEY   leases  hash  task id -> lease
-- KEY   copies  hash  task id -> message
-- ARG   id      text  task id
-- ARG   text    text  the state as it was read
-- returns 1 it is forgotten, 0 the task goes on
if redis.call('HGET', states, id) ~= text or redis.call('HEXISTS', leases, id) == 1 then
  return 0
end
redis.call('HDEL', states, id)
redis.call('HDEL', copies, id)
return 1
