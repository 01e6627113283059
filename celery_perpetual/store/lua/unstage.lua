-- Remove one chunk of records whose poll will never be committed, and the item keys that it had put aside.
--
-- KEYS[1] key        hash  the unit
-- KEYS[2] batch      hash  the batch, if it was committed after all
-- KEYS[3] chunk      list  records
-- KEYS[4] item_keys  hash  item key -> task id
-- KEYS[5] staged     zset  "poll unit" -> since
-- ARGV[1] poll       text  poll id
-- ARGV[2] unit       text  name of the unit
-- ARGV[3] base       text  what the task ids of this poll start with
-- returns 1 removed, 0 nothing was left, -1 the poll is still open or was committed
local key, batch, chunk, item_keys, staged = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local poll, unit, base = ARGV[1], ARGV[2], ARGV[3]
-- include record
if redis.call('EXISTS', batch) == 1 or redis.call('HGET', key, 'claim') == poll then
  return -1
end
local records = redis.call('LRANGE', chunk, 0, -1)
for _, record in ipairs(records) do
  local item = key_of(record)
  local id = item and redis.call('HGET', item_keys, item)
  if id and string.sub(id, 1, #base) == base then
    redis.call('HDEL', item_keys, item)
  end
end
redis.call('DEL', chunk)
if #records == 0 then
  redis.call('ZREM', staged, poll .. ' ' .. unit)
  return 0
end
return 1
