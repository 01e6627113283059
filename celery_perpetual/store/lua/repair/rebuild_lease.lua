-- Derive from a lease that its worker holds it, and that the sweep knows this worker.
--
-- KEY   leases     hash  task id -> lease
-- KEY   workers    zset  worker -> deadline
-- KEY   held       set   what the worker holds
-- ARG   id         text  task id
-- ARG   worker     text  instance of the worker
-- ARG   lease      text  the lease as the caller has read it
-- ARG   lease_ttl  ms    lease time
-- returns how many entries were wrong: {held, workers}
-- include now
if redis.call('HGET', leases, id) ~= lease then
  return {0, 0}
end
-- A worker that lives reports within its lease time; one that does not is swept after it.
local deadline = string.format('%.0f', now + lease_ttl)
return {redis.call('SADD', held, id), redis.call('ZADD', workers, 'NX', deadline, worker)}
