-- Whether a task has ended: the local is_over. Reads the locals completion, batch, chunk, done, id, position, tombs_prefix, now,
-- lease and state, beside which a tombstone is that of an earlier use of the id, and days: how many days before today one is
-- looked for. Where the bitmap is shorter than the item's position, the local records says how many there are.
local is_over, digit, records
if position >= 0 then
  local at = string.format('%d', (position - position % 8) / 8)
  digit = string.byte(redis.call('GETRANGE', done, at, at))
  records = not digit and redis.call('LLEN', chunk)
end
if digit or (records and records > position) then
  -- The end of an item is in its record and here, in one step.
  is_over = digit and math.floor(digit / 2 ^ (7 - position % 8)) % 2 == 1
else
  local record = redis.call('GET', completion)
  is_over = record and string.find(record, '"final": true', 1, true) and true
  if not is_over and position >= 0 then
    is_over = redis.call('EXISTS', batch) == 1
  elseif not (is_over or lease or state) then
    -- include tombs
    is_over = has_tomb(days)
  end
end
