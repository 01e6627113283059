-- Forget a dead worker that holds nothing any more; not one that has come back.
--
-- KEY   workers      zset  worker -> deadline
-- KEY   held         set   what it held
-- KEY   worker_info  hash  what it said of itself
-- KEY   tags         hash  what it had received
-- ARG   worker       text  instance of the worker
-- ARG   stopped      flag  1 = the worker itself asks for this
-- returns 1 forgotten, 0 it lives or holds something
-- include now
local deadline = redis.call('ZSCORE', workers, worker)
if redis.call('EXISTS', held) == 1 or (not stopped and deadline and tonumber(deadline) > now) then
  return 0
end
redis.call('ZREM', workers, worker)
redis.call('DEL', worker_info, tags)
return 1
