-- The ledger's part of an end. Reads the locals of its script: batch, chunk, done, batches, id, position, status,
-- prefix, poll, batch_ttl, now.

-- The open item, or nil and whether it had ended before.
local function open_item()
  local unit, window, on_done = unpack(redis.call('HMGET', batch, 'unit', 'window', 'on_done'))
  if not unit then
    return nil, false
  end
  local record = redis.call('LINDEX', chunk, position)
  if not record or redis.call('GETBIT', done, position) == 1 then
    return nil, true
  end
  return {unit = unit, window = tonumber(window), on_done = on_done, record = record}, false
end

local function keep_for_a_while(unit, key, window)
  local recent = prefix .. ':recent:' .. unit
  local over = redis.call('ZRANGEBYSCORE', recent, '-inf', now, 'LIMIT', 0, 100)
  if #over > 0 then
    redis.call('ZREM', recent, unpack(over))
  end
  redis.call('ZADD', recent, now + window, key)
  redis.call('PEXPIRE', recent, window)
end

-- Close an item; returns its key and whether it was the last of its batch.
local function settle(item)
  redis.call('SETBIT', done, position, 1)
  redis.call('HINCRBY', batch, status, 1)
  redis.call('HINCRBY', prefix .. ':u:' .. item.unit, 'inflight', -1)
  local key = key_of(item.record)
  local keys = prefix .. ':keys:' .. item.unit
  if key and redis.call('HGET', keys, key) == id then
    redis.call('HDEL', keys, key)
    if item.window > 0 then
      keep_for_a_while(item.unit, key, item.window)
    end
  end
  if redis.call('BITCOUNT', done) >= redis.call('LLEN', chunk) then
    redis.call('DEL', chunk, done)
  end
  if redis.call('HINCRBY', batch, 'left', -1) > 0 then
    return key, false
  end
  redis.call('PEXPIRE', batch, batch_ttl)
  if item.on_done then
    redis.call('ZADD', batches, now, poll)
  end
  return key, true
end
