-- Close an item; item.follows is the step that follows then, and is_last says whether it was the last of its batch. Goes on
-- from open_item; reads the locals completion_ttl, tombstone_ttl, now too.
is_last = left <= 1
if item.follows then
  redis.call('ZADD', batches, now, item.follows)
end
redis.call('SETBIT', done, position, '1')
if status ~= 'success' and not each then
  -- For a day an operator may enqueue it again.
  redis.call('HSET', prefix .. ':ended:' .. poll, id, record_of_item)
  redis.call('PEXPIRE', prefix .. ':ended:' .. poll, 86400000)
end
redis.call('HSET', batch, 'left', left - 1, status, (as_it or 0) + 1)
if low_water and in_flight == low_water - 1 then
  -- The unit is polled at once, unless it backs off.
  local due = prefix .. ':due'
  local at = tonumber(redis.call('ZSCORE', due, unit) or nil)
  local claim, backs_off_until = unpack(redis.call('HMGET', unit_hash, 'claim', 'backoff'))
  if at and claim then
    redis.call('HSETNX', unit_hash, 'nudged', 'refill')
  elseif at and at > now and (tonumber(backs_off_until) or 0) <= now then
    redis.call('ZADD', due, now, unit)
    redis.call('HSET', unit_hash, 'trigger', 'refill')
  end
end
if holds then
  redis.call('HDEL', prefix .. ':keys:' .. unit, item.key)
  if recent then
    -- include remember_end
  end
  if on_key == 'hold' then
    -- include hold_key
  elseif on_key == 'forget' then
    redis.call('ZREM', prefix .. ':failed:' .. unit, item.key)
    redis.call('HDEL', prefix .. ':failures:' .. unit, item.key)
  end
end
-- A chunk has 500 records, and the last one of a batch has the rest; a batch with one chunk is done with it by its last end.
n = tonumber(n)
if is_last or n > 500 then
  local ended = redis.call('BITCOUNT', done)
  if ended >= 500 or (ended == n % 500 and ended >= redis.call('LLEN', chunk)) then
    redis.call('DEL', chunk, done)
  end
end
if is_last then
  redis.call('PEXPIRE', batch, tombstone_ttl)
  redis.call('ZREM', prefix .. ':open', poll)
  if on_done == '1' then
    item.follows = poll
    redis.call('ZADD', batches, now, poll)
  end
end
