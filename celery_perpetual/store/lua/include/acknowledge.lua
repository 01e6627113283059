-- Strike a message off the broker's books. Where they are no such books, Kombu will say so; nothing here depends on it.
local function strike(unacked, unacked_index, tag)
  redis.pcall('HDEL', unacked, tag)
  redis.pcall('ZREM', unacked_index, tag)
end
