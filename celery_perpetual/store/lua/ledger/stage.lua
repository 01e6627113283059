-- Put records of a batch that is too large for one call beside the ledger. They count only once the poll is committed.
--
-- KEYS[1] key        hash   the unit
-- KEYS[2] chunk      list   the records
-- KEYS[3] item_keys  hash   item key -> task id
-- KEYS[4] staged     zset   "poll unit" -> since
-- ARGV[1] poll       text   poll id
-- ARGV[2] unit       text   name of the unit
-- ARGV[3] ttl        ms     how long uncommitted records stay
-- ARGV[4] records    int    number of records
-- ARGV[5..] record, key, id  mixed  first the records, then pairs of item key and task id
-- returns 1, or 0 when the claim is somebody else's
local key, chunk, item_keys, staged = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local poll, unit, ttl, records = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
-- include now
if redis.call('HGET', key, 'claim') ~= poll then
  return 0
end
if redis.call('EXISTS', chunk) == 0 then
  redis.call('RPUSH', chunk, unpack(ARGV, 5, 4 + records))
end
redis.call('PEXPIRE', chunk, ttl)
if #ARGV > 4 + records then
  redis.call('HSET', item_keys, unpack(ARGV, 5 + records))
end
redis.call('ZADD', staged, now, poll .. ' ' .. unit)
return 1
