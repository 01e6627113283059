-- Run captured broker commands: op, position of the key in KEYS, number of arguments, arguments; and so on.
-- Only lists are pushed to, channels are no keys, and what expires is a queue.
local function targets_must_be_lists(first)
  for i = first, #KEYS do
    must_be(KEYS[i], 'list')
  end
end

local function push(at)
  while at <= #ARGV do
    local count = tonumber(ARGV[at + 2])
    redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
    at = at + 3 + count
  end
end
