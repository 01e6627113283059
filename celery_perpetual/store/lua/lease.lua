-- What is kept of an execution and of a task, as text with bars, so that scripts need not decode JSON.
-- A lease: worker|nonce|nesting|retries|token|started|most|on_lost|tag|task
-- A state: nesting|retries|recoveries|flag|tag|task, where flag is one of
--   run  nothing but its order and its recoveries is to be remembered
--   wait a retry was sent, delegated  the task has replaced itself
--   again  it is to be sent again, fail  it is to be ended as lost, parked  it waits for an operator
local function lease_of(text)
  if text then
    local lease = {}
    lease.worker, lease.nonce, lease.nesting, lease.retries, lease.token, lease.started, lease.most, lease.on_lost,
      lease.tag, lease.task = string.match(text,
      '^([^|]*)|([^|]*)|(%d+)|(%d+)|([^|]*)|([^|]*)|(%d+)|([^|]*)|([^|]*)|(.*)$')
    lease.nesting, lease.retries, lease.most = tonumber(lease.nesting), tonumber(lease.retries), tonumber(lease.most)
    return lease
  end
end

local function state_of(text)
  if text then
    local state = {}
    state.nesting, state.retries, state.recoveries, state.flag, state.tag, state.task = string.match(text,
      '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]*)|(.*)$')
    state.nesting, state.retries = tonumber(state.nesting), tonumber(state.retries)
    state.recoveries = tonumber(state.recoveries)
    return state
  end
end

local function state_text(s)
  return string.format('%d|%d|%d|%s|%s|%s', s.nesting, s.retries, s.recoveries, s.flag, s.tag, s.task)
end

-- Negative where the first order is the older one.
local function order(one, other)
  return one.nesting ~= other.nesting and one.nesting - other.nesting or one.retries - other.retries
end
