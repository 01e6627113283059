-- One heartbeat of a worker: it lives for another lease time, whatever it holds.
--
-- KEYS[1] workers      zset    worker -> deadline
-- KEYS[2] held         set     what this worker holds
-- KEYS[3] worker_info  hash    what the worker says of itself
-- KEYS[4] tags         hash    delivery tag -> task id of what it has received and not acknowledged
-- KEYS[5] seen         string  when somebody was last in contact
-- KEYS[6] hold         string  until when no lease expires
-- ARGV[1] worker       text    instance of the worker
-- ARGV[2] ttl          ms      lease time
-- ARGV[3] gap          ms      longest silence in which the store counts as reachable
-- ARGV[4] info         JSON    what the worker says of itself
-- ARGV[5] gone         int     how many tags follow that it does not have any more
-- ARGV[6..] tag, tag, id  text  these tags, then pairs of what it has received since
-- returns what this worker holds, as far as the store knows
local workers, held, worker_info, tags, seen, hold = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker, ttl, gap, info, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
-- include now
-- include contact
contact()
redis.call('ZADD', workers, string.format('%.0f', now + ttl), worker)
redis.call('HSET', worker_info, 'info', info, 'at', string.format('%.0f', now))
-- Lua unpacks only some thousands of values at once. The size of a part is even: the rest are pairs.
local function in_parts(command, first, last)
  for at = first, last, 1000 do
    redis.call(command, tags, unpack(ARGV, at, math.min(at + 999, last)))
  end
end
in_parts('HDEL', 6, 5 + gone)
in_parts('HSET', 6 + gone, #ARGV)
for _, key in ipairs({worker_info, tags}) do
  redis.call('PEXPIRE', key, 604800000)
end
return redis.call('SMEMBERS', held)
