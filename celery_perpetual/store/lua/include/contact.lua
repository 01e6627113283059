-- Time in which the store was away expires no lease. At least one process touches `seen` once per `gap`; the first one
-- that finds it older keeps all leases until every worker that lives has had the time to report. Reads the locals seen,
-- hold, reporting, gap, now.
local function contact()
  local last, held = tonumber(redis.call('GET', seen)), tonumber(redis.call('GET', hold))
  if last and now - last > gap then
    held = now + reporting
    redis.call('SET', hold, held, 'PX', reporting)
  end
  if held and held > now + reporting then
    -- Set while the store's clock was ahead.
    held = now + reporting
    redis.call('SET', hold, held, 'PX', reporting)
  end
  redis.call('SET', seen, now)
  return held or 0
end
