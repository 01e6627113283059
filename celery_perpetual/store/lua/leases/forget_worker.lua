-- Forget a dead worker that holds nothing any more; not one that has come back.
--
-- KEYS[1] workers      zset    worker -> deadline
-- KEYS[2] held         set     what it held
-- KEYS[3] worker_info  hash    what it said of itself
-- KEYS[4] tags         hash    what it had received
-- ARGV[1] worker       text    instance of the worker
-- ARGV[2] stopped      text    1 = it says so itself
-- returns 1 forgotten, 0 it lives or holds something
local workers, held, worker_info, tags = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, stopped = ARGV[1], ARGV[2]
-- include now
local deadline = redis.call('ZSCORE', workers, worker)
if redis.call('EXISTS', held) == 1 or (stopped ~= '1' and deadline and tonumber(deadline) > now) then
  return 0
end
redis.call('ZREM', workers, worker)
redis.call('DEL', worker_info, tags)
return 1
