-- Derive from the state of a task on which list it stands.
--
-- KEY   states  hash  task id -> state
-- KEY   resend  zset  tasks to be resent
-- KEY   parked  hash  task id -> JSON
-- ARG   id      text  task id
-- returns how many entries were wrong: {resend, parked}
-- include now
-- include lease
local state = state_of(redis.call('HGET', states, id))
if state and (state.flag == 'resend' or state.flag == 'fail') then
  return {redis.call('ZADD', resend, 'NX', now, id), redis.call('HDEL', parked, id)}
elseif state and state.flag == 'parked' and redis.call('HEXISTS', parked, id) == 0 then
  redis.call('HSET', parked, id, cjson.encode({task_id = id, task = state.task, worker = '', token = 0,
    attempt = state.retries + 1, recoveries = state.recoveries, started_at = state.since, parked_at = state.since,
    reason = 'its entry among the parked tasks was lost, and the reason with it'}))
  return {0, 1}
end
return {0, 0}
