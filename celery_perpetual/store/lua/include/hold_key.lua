-- Hold back the key of an item that has not ended by success, for as long as the curve of its batch says: "{most attempts, 0 =
-- any}|{first ms}|{multiplier}|{longest ms}|{1 = with jitter}"; nil where failures are not remembered. Goes on from open_item;
-- reads the locals hold, head, events, events_maxlen, now; needs rfc3339.
local WEEK, LONGEST_ERROR = 604800000, 300
local failed, failures = prefix .. ':failed:' .. unit, prefix .. ':failures:' .. unit
local before = redis.call('HGET', failures, item.key)
local count = 1 + (before and tonumber(string.match(before, '^%d+')) or 0)

-- Milliseconds until the key is free again; nil = it has failed too often, or is held until an operator allows it.
local delay
if hold ~= 'until_allowed' then
  local most, first, multiplier, longest, jitter = string.match(curve, '^(%d+)|(%d+)|([^|]+)|(%d+)|(%d)$')
  most, first, longest = tonumber(most), tonumber(first), tonumber(longest)
  if most == 0 or count < most then
    delay = first * tonumber(multiplier) ^ (count - 1)
    if jitter == '1' then
      -- That of one failure is always the same.
      delay = delay * (1 + tonumber(string.sub(redis.sha1hex(item.key .. '|' .. count), 1, 8), 16) / 2 ^ 34)
    end
    delay = first == 0 and 0 or math.floor(math.min(delay, longest))
  end
end

-- Type and message of the exception in the head of the record.
local is_read, seen = pcall(cjson.decode, head .. '}')
local raised, text = is_read and seen.error, ''
if type(raised) == 'table' then
  text = raised.type .. ': ' .. raised.message
  if #text > LONGEST_ERROR then
    -- Not in the middle of a character.
    text = string.gsub(string.sub(text, 1, LONGEST_ERROR), '[\192-\255]?[\128-\191]*$', '')
  end
end

redis.call('ZADD', failed, delay and string.format('%.0f', now + delay) or 'inf', item.key)
redis.call('HSET', failures, item.key, string.format('%d|%.0f|%s|%s', count, now, status, text))
if not delay and hold ~= 'until_allowed' then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'alert.key_parked', 'data', cjson.encode({
    unit = unit, key = item.key, count = count, status = status, error = text, at = rfc3339(now)}))
end
-- Keys that have not come again for a week after their hold, a hundred at a time.
local old = redis.call('ZRANGEBYSCORE', failed, '-inf', now - WEEK, 'LIMIT', 0, 100)
if #old > 0 then
  redis.call('ZREM', failed, unpack(old))
  redis.call('HDEL', failures, unpack(old))
end
