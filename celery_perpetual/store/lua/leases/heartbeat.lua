-- One heartbeat of a worker: it lives for another lease time, whatever it holds.
--
-- KEY   workers      zset    worker -> deadline
-- KEY   held         set     what this worker holds
-- KEY   worker_info  hash    what the worker says of itself
-- KEY   received     hash    delivery tag -> task id of what it has received and not acknowledged
-- KEY   seen         string  when a process was last in contact
-- KEY   hold         string  until when no lease expires
-- ARG   worker       text    instance of the worker
-- ARG   lease_ttl    ms      lease time
-- ARG   gap          ms      longest silence in which the store counts as reachable
-- ARG   reporting    ms      how long every worker needs to report to a store that was away
-- ARG   info         JSON    what the worker says of itself
-- ARG   gone         int     how many tags follow that it does not have any more
-- ARGS  tags         text    these tags, then pairs of tag and id of what it has received since
-- returns what this worker holds, as far as the store knows
-- include now
-- include contact
contact()
redis.call('ZADD', workers, string.format('%.0f', now + lease_ttl), worker)
redis.call('HSET', worker_info, 'info', info, 'at', string.format('%.0f', now))
-- Lua unpacks only some thousands of values at once. The size of a part is even: the rest are pairs.
local function in_parts(command, first, last)
  for at = first, last, 1000 do
    redis.call(command, received, unpack(ARGV, at, math.min(at + 999, last)))
  end
end
in_parts('HDEL', tags_at, tags_at + gone - 1)
in_parts('HSET', tags_at + gone, #ARGV)
for _, key in ipairs({worker_info, received}) do
  redis.call('PEXPIRE', key, 604800000)
end
return redis.call('SMEMBERS', held)
