-- The effect of an item's end on later polls: after a success nothing is remembered of its key, and after any other end
-- the key is held back. An item has unit, key, holds, has_failed (a key of its batch has failed before) and retries: the
-- curve "{most attempts, 0 = any}|{first ms}|{multiplier}|{longest ms}|{1 = with jitter}", or nil where failures are not
-- remembered. Reads the locals prefix, status, hold, head, events, events_maxlen, now; needs rfc3339, types.
local WEEK = 604800000
local LONGEST_ERROR = 300

-- The effect of the end on the key, or nil. Meets every key that this writes to.
local function plan_for_key(item)
  local plan
  if not item.holds or hold == 'none' then
    return nil
  elseif status == 'success' then
    plan = item.has_failed and 'forget'
  elseif hold == 'until_allowed' or item.retries then
    plan = 'hold'
    probe('XLEN', events)
  end
  if plan then
    probe('ZCARD', prefix .. ':failed:' .. item.unit)
    probe('HLEN', prefix .. ':failures:' .. item.unit)
  end
  return plan
end

-- Milliseconds until the key is free again; nil = it has failed too often. The jitter of one failure is always the same.
local function delay_after(retries, key, count)
  local most, first, multiplier, longest, jitter = string.match(retries, '^(%d+)|(%d+)|([^|]+)|(%d+)|(%d)$')
  most, first, longest = tonumber(most), tonumber(first), tonumber(longest)
  if most > 0 and count >= most then
    return nil
  elseif first == 0 then
    return 0
  end
  local delay = first * tonumber(multiplier) ^ (count - 1)
  if jitter == '1' then
    delay = delay * (1 + tonumber(string.sub(redis.sha1hex(key .. '|' .. count), 1, 8), 16) / 2 ^ 34)
  end
  return math.floor(math.min(delay, longest))
end

-- Type and message of the exception in the head of a record, or ''.
local function error_text()
  local is_read, record = pcall(cjson.decode, head .. '}')
  local raised = is_read and record.error
  if type(raised) ~= 'table' then
    return ''
  end
  local text = raised.type .. ': ' .. raised.message
  if #text > LONGEST_ERROR then
    -- Not in the middle of a character.
    text = string.gsub(string.sub(text, 1, LONGEST_ERROR), '[\192-\255]?[\128-\191]*$', '')
  end
  return text
end

local function hold_key(item)
  local failed, failures = prefix .. ':failed:' .. item.unit, prefix .. ':failures:' .. item.unit
  local before = redis.call('HGET', failures, item.key)
  local count, text = 1 + (before and tonumber(string.match(before, '^%d+')) or 0), error_text()
  local delay = hold ~= 'until_allowed' and delay_after(item.retries, item.key, count)
  redis.call('ZADD', failed, delay and string.format('%.0f', now + delay) or 'inf', item.key)
  redis.call('HSET', failures, item.key, string.format('%d|%.0f|%s|%s', count, now, status, text))
  if not delay and hold ~= 'until_allowed' then
    redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'alert.key_parked', 'data', cjson.encode({
      unit = item.unit, key = item.key, count = count, status = status, error = text, at = rfc3339(now)}))
  end
  -- Keys that have not come again for a week after their hold, a hundred at a time.
  local old = redis.call('ZRANGEBYSCORE', failed, '-inf', now - WEEK, 'LIMIT', 0, 100)
  if #old > 0 then
    redis.call('ZREM', failed, unpack(old))
    redis.call('HDEL', failures, unpack(old))
  end
end

local function forget_failures(item)
  redis.call('ZREM', prefix .. ':failed:' .. item.unit, item.key)
  redis.call('HDEL', prefix .. ':failures:' .. item.unit, item.key)
end
