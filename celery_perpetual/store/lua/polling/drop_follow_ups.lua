-- Forget follow-ups that a poll has found to be in flight already, if its claim is open.
--
-- KEY   unit_hash   hash  the unit
-- KEY   follow_ups  list  records
-- ARG   poll        text  poll id
-- ARG   count       int   how many, from the oldest
-- returns 1, or 0 when another poll has the claim
local claim, done = unpack(redis.call('HMGET', unit_hash, 'claim', 'followed'))
if claim ~= poll then
  return 0
end
if done ~= poll then
  redis.call('HSET', unit_hash, 'followed', poll)
  redis.call('LTRIM', follow_ups, count, -1)
end
return 1
