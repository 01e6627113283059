-- Forget the pauses that ended by themselves a day ago: the store's clock may be ahead just now.
--
-- KEY   paused  hash  scope -> JSON
-- returns nothing
-- include now
local stored = redis.call('HGETALL', paused)
for i = 1, #stored, 2 do
  local till = cjson.decode(stored[i + 1])['until_ms']
  if till and till ~= cjson.null and till < now - 86400000 then
    redis.call('HDEL', paused, stored[i])
  end
end
