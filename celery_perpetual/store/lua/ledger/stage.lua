-- Put records of a batch that is too large for one call beside the ledger. They count only once the poll is committed.
--
-- KEY   unit_hash  hash   the unit
-- KEY   chunk      list   the records
-- KEY   item_keys  hash   item key -> task id
-- KEY   staged     zset   "poll unit" -> since
-- ARG   poll       text   poll id
-- ARG   unit       text   name of the unit
-- ARG   ttl        text   ms: how long uncommitted records stay
-- ARG   records    int    number of records
-- ARGS  rest       mixed  first the records, then pairs of item key and task id
-- returns 1, or 0 when another poll has the claim
-- include now
if redis.call('HGET', unit_hash, 'claim') ~= poll then
  return 0
end
if redis.call('EXISTS', chunk) == 0 then
  redis.call('RPUSH', chunk, unpack(ARGV, rest_at, rest_at + records - 1))
end
redis.call('PEXPIRE', chunk, ttl)
if rest_at + records <= #ARGV then
  redis.call('HSET', item_keys, unpack(ARGV, rest_at + records))
end
redis.call('ZADD', staged, now, poll .. ' ' .. unit)
return 1
