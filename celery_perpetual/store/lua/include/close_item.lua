-- The effect of an item's end on the ledger. Reads the locals batch, chunk, done, batches, id, position, status, head,
-- prefix, poll, completion_ttl, tombstone_ttl, now; needs types, failed_key.

-- The open item, or nil and whether it is closed. Probes every key that closing writes to.
local function open_item()
  local unit, window, on_done, left, retries, has_failed, low_water, each = unpack(redis.call('HMGET', batch, 'unit', 'window',
    'on_done', 'left', 'retries', 'has_failed', 'low_water', 'each'))
  if not unit then
    return nil, false
  end
  local record = redis.call('LINDEX', chunk, position)
  if not record or redis.call('GETBIT', done, position) == 1 then
    return nil, true
  end
  local item = {unit = unit, window = tonumber(window), on_done = on_done, key = key_of(record),
    arguments = head ~= '' and arguments_of(record), retries = retries, has_failed = has_failed, low_water = tonumber(low_water)}
  if status ~= 'success' and not each then
    item.record = record
    probe('HLEN', prefix .. ':ended:' .. poll)
  end
  if each then
    -- The entry for the step that follows this end: the owner, the item, how it ended, and its key.
    item.follows = each .. ' ' .. id .. ' ' .. status .. ' ' .. (item.key or '')
  end
  probe('HEXISTS', prefix .. ':u:' .. unit, 'inflight')
  if item.low_water then
    probe('ZCARD', prefix .. ':due')
  end
  if item.key then
    item.holds = redis.call('HGET', prefix .. ':keys:' .. unit, item.key) == id
    probe('ZCARD', prefix .. ':recent:' .. unit)
    item.plan = plan_for_key(item)
  end
  if tonumber(left) <= 1 then
    probe('ZCARD', prefix .. ':open')
  end
  if tonumber(left) <= 1 or each then
    probe('ZCARD', batches)
  end
  return item, false
end

local function remember(unit, key, window)
  local recent = prefix .. ':recent:' .. unit
  local outdated = redis.call('ZRANGEBYSCORE', recent, '-inf', now - window, 'LIMIT', 0, 100)
  if #outdated > 0 then
    redis.call('ZREM', recent, unpack(outdated))
  end
  redis.call('ZADD', recent, now, key)
  redis.call('PEXPIRE', recent, window)
end

-- The unit is polled at once, unless it backs off.
local function refill(unit)
  local due, unit_hash = prefix .. ':due', prefix .. ':u:' .. unit
  local at = tonumber(redis.call('ZSCORE', due, unit) or nil)
  if not at then
    return
  end
  local open, backs_off_until = unpack(redis.call('HMGET', unit_hash, 'claim', 'backoff'))
  if open then
    redis.call('HSETNX', unit_hash, 'nudged', 'refill')
  elseif at > now and (tonumber(backs_off_until) or 0) <= now then
    redis.call('ZADD', due, now, unit)
    redis.call('HSET', unit_hash, 'trigger', 'refill')
  end
end

-- Close an item; returns whether it was the last of its batch.
local function close_item(item)
  if item.follows then
    redis.call('ZADD', batches, now, item.follows)
  end
  redis.call('SETBIT', done, position, 1)
  if item.record then
    -- For a day an operator may enqueue it again.
    redis.call('HSET', prefix .. ':ended:' .. poll, id, item.record)
    redis.call('PEXPIRE', prefix .. ':ended:' .. poll, 86400000)
  end
  redis.call('HINCRBY', batch, status, 1)
  local in_flight = redis.call('HINCRBY', prefix .. ':u:' .. item.unit, 'inflight', -1)
  if item.low_water and in_flight == item.low_water - 1 then
    refill(item.unit)
  end
  if item.holds then
    redis.call('HDEL', prefix .. ':keys:' .. item.unit, item.key)
    if head ~= '' then
      redis.call('SET', prefix .. ':last:' .. item.unit .. ':' .. item.key, id, 'PX', completion_ttl)
    end
    remember(item.unit, item.key, item.window)
    if item.plan == 'hold' then
      hold_key(item)
    elseif item.plan == 'forget' then
      forget_failures(item)
    end
  end
  if redis.call('BITCOUNT', done) >= redis.call('LLEN', chunk) then
    redis.call('DEL', chunk, done)
  end
  if redis.call('HINCRBY', batch, 'left', -1) > 0 then
    return false
  end
  redis.call('PEXPIRE', batch, tombstone_ttl)
  redis.call('ZREM', prefix .. ':open', poll)
  if item.on_done then
    item.follows = poll
    redis.call('ZADD', batches, now, poll)
  end
  return true
end
