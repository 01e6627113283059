-- One heartbeat of a worker: it lives for another lease time, whatever it holds.
--
-- Reports are numbered, and the worker says which one was answered last. Where that is missing, the store has gone back to
-- an older state, or has forgotten the worker. Tokens that were granted since then must not be granted again.
--
-- KEY   workers      zset*    worker -> deadline
-- KEY   held         set*     what this worker holds
-- KEY   worker_info  hash*    what the worker says of itself
-- KEY   received     hash*    delivery tag -> task id of what it has received and not acknowledged
-- KEY   seen         string*  when a process was last in contact
-- KEY   hold         string*  until when no lease expires
-- KEY   token        string*  the last token of a lease
-- ARG   worker       text    instance of the worker
-- ARG   lease_ttl    ms      lease time
-- ARG   gap          ms      longest silence in which the store counts as reachable
-- ARG   reporting    ms      how long every worker needs to report to a store that was away
-- ARG   info         JSON    what the worker says of itself
-- ARG   report       int     number of this report
-- ARG   known        int     number of the last report that was answered, 0 = none
-- ARG   gone         int     how many tags follow that it does not have any more; -1 = all that it has received follows
-- ARGS  tags         text    these tags, then pairs of tag and id of what it has received since
-- returns {1 if the store is older than the last report, what this worker holds as far as the store knows, how many messages
-- it has received as far as the store knows}
-- include now
-- include contact
local last, older = unpack(redis.call('HMGET', worker_info, 'report', 'older'))
local holds = redis.call('SMEMBERS', held)
-- Every key that is written to is met first.
redis.call('ZCARD', workers)
redis.call('HLEN', received)
local has_gone_back = (tonumber(last) or 0) < known
if has_gone_back then
  redis.call('GET', token)
end
contact()
if has_gone_back then
  older = string.format('%d', report)
  redis.call('HSET', worker_info, 'older', older)
  redis.call('INCRBY', token, 1000000000)
end
redis.call('ZADD', workers, string.format('%.0f', now + lease_ttl), worker)
redis.call('HSET', worker_info, 'info', info, 'at', string.format('%.0f', now), 'report', string.format('%d', report))
if gone < 0 then
  redis.call('DEL', received)
  gone = 0
end
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
return {tonumber(older) == report and 1 or 0, holds, redis.call('HLEN', received)}
