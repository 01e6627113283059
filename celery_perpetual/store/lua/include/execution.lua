-- The execution that has the lease of a task, and the task's state: the locals worker, holder (its nonce), nesting, retries and
-- state, as text. Reads the locals leases, states, id.
local lease = redis.call('HGET', leases, id)
local worker, holder, nesting, retries, has_state
if lease then
  worker, holder, nesting, retries, has_state = string.match(lease, '^([^|]*)|([^|]*)|(%d+)|(%d+)|(%d)')
end
local state = has_state ~= '0' and redis.call('HGET', states, id)
