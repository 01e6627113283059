-- Acknowledge a message: kombu forgets it. Where these keys hold anything else, kombu reports it; nothing depends on it.
local function acknowledge(unacked, unacked_index, tag)
  redis.pcall('HDEL', unacked, tag)
  redis.pcall('ZREM', unacked_index, tag)
end
