-- Remove item keys that a poll has staged and will never commit; with the last of them, its records and its entry too.
--
-- KEY   unit_hash  hash  the unit
-- KEY   batch      hash  the batch, if it was committed after all
-- KEY   item_keys  hash  item key -> task id
-- KEY   staged     zset  "poll unit" -> since
-- KEYS  records    list  chunks of records; given with the last call
-- ARG   poll       text  poll id
-- ARG   unit       text  name of the unit
-- ARG   base       text  what the task ids of this poll start with
-- ARG   last       flag  1 = no item keys are left
-- ARGS  items      text  item keys
-- returns 1, or 0 when the poll is still open or was committed
if redis.call('EXISTS', batch) == 1 or redis.call('HGET', unit_hash, 'claim') == poll then
  return 0
end
for at = items_at, #ARGV do
  local id = redis.call('HGET', item_keys, ARGV[at])
  if id and string.sub(id, 1, #base) == base then
    redis.call('HDEL', item_keys, ARGV[at])
  end
end
if last then
  if #records > 0 then
    redis.call('DEL', unpack(records))
  end
  redis.call('ZREM', staged, poll .. ' ' .. unit)
end
return 1
