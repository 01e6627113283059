-- Take what a worker does not hold any more off its list.
--
-- KEY   leases  hash  task id -> lease
-- KEY   held    set   what the worker holds
-- ARG   worker  text  instance of the worker
-- returns how many entries were wrong
local wrong = 0
for _, id in ipairs(redis.call('SMEMBERS', held)) do
  local lease = redis.call('HGET', leases, id)
  if not lease or string.sub(lease, 1, #worker + 1) ~= worker .. '|' then
    wrong = wrong + redis.call('SREM', held, id)
  end
end
return wrong
