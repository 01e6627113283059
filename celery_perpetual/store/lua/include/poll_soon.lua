-- Let a unit be polled at once. Reads the local now of its script. Returns 1 if it is due now, 0 if it is not in the clock.
local function poll_soon(unit_hash, due, unit, trigger)
  local at = redis.call('ZSCORE', due, unit)
  if not at then
    return 0
  end
  if redis.call('HGET', unit_hash, 'claim') then
    -- The open poll may have read before there was anything to find: its end makes the unit due.
    redis.call('HSET', unit_hash, 'nudged', trigger)
  else
    -- Where it is due already, its poll learns that it was asked for.
    if tonumber(at) > now then
      redis.call('ZADD', due, now, unit)
    end
    redis.call('HSET', unit_hash, 'trigger', trigger)
  end
  return 1
end
