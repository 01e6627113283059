-- Whether an item waits for a worker, as the caller has seen it. Needs lease; reads leases, states, chunk, done, id,
-- position, seen.
local function still_waits()
  if redis.call('HEXISTS', leases, id) == 1 or not redis.call('LINDEX', chunk, position)
    or redis.call('GETBIT', done, position) == 1 then
    return false
  end
  local state = state_of(redis.call('HGET', states, id))
  if not state or seen == '' then
    return not state and seen == ''
  end
  return state.flag == 'run' and state.since == tonumber(seen)
end
