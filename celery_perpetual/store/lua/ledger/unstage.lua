-- Take back item keys that a poll put aside and will never commit; without any left, its records and its entry too.
--
-- KEYS[1] key        hash  the unit
-- KEYS[2] batch      hash  the batch, if it was committed after all
-- KEYS[3] item_keys  hash  item key -> task id
-- KEYS[4] staged     zset  "poll unit" -> since
-- KEYS[5..] chunk    list  records; given with the last call
-- ARGV[1] poll       text  poll id
-- ARGV[2] unit       text  name of the unit
-- ARGV[3] base       text  what the task ids of this poll start with
-- ARGV[4] last       int   1 = no item keys are left
-- ARGV[5..] item     text  item keys
-- returns 1, or 0 when the poll is still open or was committed
local key, batch, item_keys, staged = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local poll, unit, base, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', batch) == 1 or redis.call('HGET', key, 'claim') == poll then
  return 0
end
for at = 5, #ARGV do
  local id = redis.call('HGET', item_keys, ARGV[at])
  if id and string.sub(id, 1, #base) == base then
    redis.call('HDEL', item_keys, ARGV[at])
  end
end
if last == '1' then
  if #KEYS > 4 then
    redis.call('DEL', unpack(KEYS, 5))
  end
  redis.call('ZREM', staged, poll .. ' ' .. unit)
end
return 1
