-- Derive from the state of a task on which list it stands.
--
-- KEY   states  hash  task id -> state
-- KEY   resend  zset  tasks to be resent
-- KEY   parked     hash  task id -> JSON
-- KEY   parked_at  zset  task id -> since when it is parked
-- ARG   id      text  task id
-- returns how many entries were wrong: {resend, parked}
-- include now
-- include lease
local state = state_of(redis.call('HGET', states, id))
if state and (state.flag == 'resend' or state.flag == 'fail') then
  local was_listed = redis.call('HDEL', parked, id) + redis.call('ZREM', parked_at, id) > 0
  return {redis.call('ZADD', resend, 'NX', now, id), was_listed and 1 or 0}
elseif state and state.flag == 'parked' then
  local is_new = redis.call('HSETNX', parked, id, cjson.encode({task_id = id, task = state.task, worker = '', token = 0,
    attempt = state.retries + 1, recoveries = state.recoveries, started_at = state.since, parked_at = state.since,
    reason = 'its entry among the parked tasks was lost, and the reason with it'}))
  -- A task is parked when its state is written.
  return {0, is_new + redis.call('ZADD', parked_at, 'NX', state.since, id) > 0 and 1 or 0}
end
return {0, 0}
