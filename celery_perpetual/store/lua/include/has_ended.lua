-- Whether a task has ended. Reads the locals completion, batch, chunk, done, id, position, tombs_prefix, tombstone_days, now.
-- include tombs
local function has_ended()
  local record = redis.call('GET', completion)
  if record and string.find(record, '"final": true', 1, true) then
    return true
  end
  if position >= 0 then
    if redis.call('LINDEX', chunk, position) then
      return redis.call('GETBIT', done, position) == 1
    end
    return redis.call('EXISTS', batch) == 1
  end
  return has_tomb(tombstone_days)
end
