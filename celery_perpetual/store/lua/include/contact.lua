-- Time in which the store was away expires no lease. At least one process touches `seen` once per `gap`; the first one
-- that finds it older keeps all leases for a lease time and a gap, so that every worker can report first. Reads the
-- locals seen, hold, lease_ttl, gap, now.
local function contact()
  local last, held = tonumber(redis.call('GET', seen)), tonumber(redis.call('GET', hold))
  if last and now - last > gap then
    held = now + lease_ttl + gap
    redis.call('SET', hold, held, 'PX', lease_ttl + gap)
  end
  if held and held > now + lease_ttl + gap then
    -- Set while the store's clock was ahead.
    held = now + lease_ttl + gap
    redis.call('SET', hold, held, 'PX', lease_ttl + gap)
  end
  redis.call('SET', seen, now)
  return held or 0
end
