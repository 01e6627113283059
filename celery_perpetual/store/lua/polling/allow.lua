-- Let an item key be taken again that is held back or parked, and forget its failures.
--
-- KEY   failed    zset  item key -> until when it is held back, ms; inf = parked
-- KEY   failures  hash  item key -> what is known of its failures
-- ARG   item_key  text
-- returns 1, or 0 when nothing held it
-- include now
local till = redis.call('ZSCORE', failed, item_key)
if not till or (till ~= 'inf' and tonumber(till) <= now) then
  return 0
end
redis.call('ZREM', failed, item_key)
redis.call('HDEL', failures, item_key)
return 1
