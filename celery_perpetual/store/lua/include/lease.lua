-- The record of an execution and of a task, as text with bars, so that scripts need not decode JSON.
-- A lease: worker|nonce|nesting|retries|has_state|token|started|most|on_lost|tag|task, where has_state is 1 where the task has a
-- state: without one, an end need not look for it
-- A state: since|nesting|retries|recoveries|flag|tag|task, where since is when it was written and flag is one of
--   run  only its order and its recoveries are kept
--   wait a retry is its successor, delegated  a replacement is; while the lease is there, that may not be published yet;
--        when it is gone, wait is a replacement of the same id too
--   back the task has sent itself again, and has yet to say whether that is its end; came  that message has come meanwhile
--   resend  it is to be resent, fail  it is to be ended as lost, parked  it waits for an operator
-- The zeros of that time make a state longer than 64 bytes: a small hash of shorter values is kept as a list, which
-- every start and every end of a task would read from end to end for a state that is not there.
local function stamp(at)
  return string.format('%064.0f|', at)
end

local function lease_of(text)
  if text then
    local worker, nonce, nesting, retries, token, started, most, on_lost, tag, task = string.match(text,
      '^([^|]*)|([^|]*)|(%d+)|(%d+)|%d|([^|]*)|([^|]*)|(%d+)|([^|]*)|([^|]*)|(.*)$')
    return {worker = worker, nonce = nonce, nesting = tonumber(nesting), retries = tonumber(retries), token = token,
      started = tonumber(started), most = tonumber(most), on_lost = on_lost, tag = tag, task = task}
  end
end

-- A lease whose task has a state from now on.
local function with_state(text)
  return (string.gsub(text, '^([^|]*|[^|]*|%d+|%d+|)%d', '%11', 1))
end

-- Worker, nonce, nesting and retries of a lease, as text: its end needs no more.
local function holder_of(text)
  return string.match(text, '^([^|]*)|([^|]*)|(%d+)|(%d+)')
end

local function state_of(text)
  if text then
    local since, nesting, retries, recoveries, flag, tag, task = string.match(text,
      '^(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|([^|]*)|(.*)$')
    return {since = tonumber(since), nesting = tonumber(nesting), retries = tonumber(retries), recoveries = tonumber(recoveries), flag = flag,
      tag = tag, task = task}
  end
end

local function state_text(s, at)
  return stamp(at) .. s.nesting .. '|' .. s.retries .. '|' .. s.recoveries .. '|' .. s.flag .. '|' .. s.tag .. '|' .. s.task
end

-- Negative where the first order is the older one.
local function order(one, other)
  return one.nesting ~= other.nesting and one.nesting - other.nesting or one.retries - other.retries
end

-- The order of what succeeds an execution: of its retry, or of its replacement.
local function following(lease, cause)
  if cause == 'delegated' then
    return lease.nesting + 1, 0
  end
  return lease.nesting, lease.retries + (cause == 'wait' and 1 or 0)
end
