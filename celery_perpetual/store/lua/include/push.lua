-- Run captured broker commands: name, position of the key among the targets, number of arguments, arguments; and so on.
-- They push to lists; channels are no keys, and what expires is a queue. Reads the local targets of its script.
local function push(at)
  while at <= #ARGV do
    local count = tonumber(ARGV[at + 2])
    redis.call(ARGV[at], targets[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + count))
    at = at + 3 + count
  end
end
