-- Forget the pauses that ended by themselves a day ago: the store's clock may be ahead just now.
--
-- KEY   paused  hash  scope -> JSON
-- returns nothing
-- include now
-- include pause_holds
local stored = redis.call('HGETALL', paused)
for i = 1, #stored, 2 do
  local till = end_of(stored[i + 1])
  if till and till < now - 86400000 then
    redis.call('HDEL', paused, stored[i])
  end
end
