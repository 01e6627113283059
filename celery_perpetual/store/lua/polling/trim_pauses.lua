-- Forget the pauses that have ended by themselves.
--
-- KEYS[1] paused  hash  scope -> JSON
-- returns nothing
local paused = KEYS[1]
-- include now
-- include pause_holds
local stored = redis.call('HGETALL', paused)
for i = 1, #stored, 2 do
  if not holds(stored[i + 1]) then
    redis.call('HDEL', paused, stored[i])
  end
end
