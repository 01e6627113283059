-- The open item: the local item, nil where there is none, and then is_closed says whether it has ended. Probes every key that
-- closing it writes to. Reads the locals batch, chunk, done, batches, id, poll, position, status, head, hold, prefix, events;
-- needs record.
local left, unit, n, closing, as_it, young_until = unpack(redis.call('HMGET', batch, 'left', 'unit', 'n', 'closing', status,
  'young_until'))
-- See closing.lua.
local window, on_done, has_failed, low_water, curve, each
local item, is_closed, record_of_item, holds, on_key, recent = nil, false
if unit then
  record_of_item = redis.call('LINDEX', chunk, position)
  is_closed = not record_of_item or redis.call('GETBIT', done, position) == 1
end
if unit and not is_closed then
  window, on_done, has_failed, low_water, curve, each = string.match(closing or '0 0 0 - - -', '^(%d+) (%d) (%d) (%S+) (%S+) (%S+)$')
  window, low_water, each = tonumber(window), low_water ~= '-' and tonumber(low_water), each ~= '-' and each
  local key, from, to = key_of(record_of_item)
  item = {unit = unit, key = key, arguments = head ~= '' and arguments_of(record_of_item, from, to)}
  left = tonumber(left)
  if status ~= 'success' and not each then
    redis.call('HLEN', prefix .. ':ended:' .. poll)
  end
  if each then
    -- The entry for the step that follows this end: the owner, the item, how it ended, and its key.
    item.follows = each .. ' ' .. id .. ' ' .. status .. ' ' .. (key or '')
  end
  if low_water then
    redis.call('ZCARD', prefix .. ':due')
  end
  if key then
    holds = redis.call('HGET', prefix .. ':keys:' .. unit, key) == id
    if holds and (window > 0 or head ~= '') then
      recent = prefix .. ':recent:' .. unit
      redis.call('HLEN', recent)
    end
    -- After a success nothing is remembered of the key's failures, and after any other end the key is held back.
    if not holds or hold == 'none' then
      on_key = nil
    elseif status == 'success' then
      on_key = has_failed == '1' and 'forget'
    elseif hold == 'until_allowed' or curve ~= '-' then
      on_key = 'hold'
      redis.call('XLEN', events)
    end
    if on_key then
      redis.call('ZCARD', prefix .. ':failed:' .. unit)
      redis.call('HLEN', prefix .. ':failures:' .. unit)
    end
  end
  if left <= 1 then
    redis.call('ZCARD', prefix .. ':open')
  end
  if left <= 1 or each then
    redis.call('ZCARD', batches)
  end
end
