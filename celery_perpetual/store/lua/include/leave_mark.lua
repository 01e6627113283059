-- Each beat leaves a mark that only grows. Where its last one is missing, the store has gone back to an older state: it is
-- another store from now on, and no process leads it until it has learned that. A process that notices it later finds the new identity.
-- Marks are kept for a day. Reads the locals marks, owner, mark, epoch, epoch_known, epoch_new, leader, leader_info, now.
local DAY = 86400000

-- The new mark, the identity, and whether it was this call that noticed.
local function leave_mark()
  local there, last = tonumber(redis.call('ZSCORE', marks, owner)) or 0, tonumber(mark)
  redis.call('SET', epoch, epoch_new, 'NX')
  local is_older = there < last and last > now - DAY and redis.call('GET', epoch) == epoch_known
  if is_older then
    redis.call('SET', epoch, epoch_new)
    redis.call('DEL', leader, leader_info)
  end
  local left = string.format('%.0f', math.max(now, there + 1, last + 1))
  redis.call('ZADD', marks, left, owner)
  redis.call('ZREMRANGEBYSCORE', marks, '-inf', string.format('%.0f', now - DAY))
  return left, redis.call('GET', epoch), is_older
end
