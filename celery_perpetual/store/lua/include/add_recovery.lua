-- Count a recovery: a lost task has been resent. Reads the locals events, counters, events_maxlen, now.
local function add_recovery(id, state)
  redis.call('HINCRBY', counters, 'recovered', 1)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'lease.recovered', 'data', cjson.encode({task_id = id,
    task = state.task, recoveries = state.recoveries, at = rfc3339(now)}))
end
