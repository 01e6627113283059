-- Forget the pauses that have ended by themselves.
--
-- KEY   paused  hash  scope -> JSON
-- returns nothing
-- include now
-- include pause_holds
local stored = redis.call('HGETALL', paused)
for i = 1, #stored, 2 do
  if not holds(stored[i + 1]) then
    redis.call('HDEL', paused, stored[i])
  end
end
