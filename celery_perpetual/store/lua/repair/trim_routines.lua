-- Take routines that are not there any more off the lists, and their idempotency keys; and others off wrong lists.
--
-- KEY   routines          hash  routine -> record
-- KEY   routines_due      zset  routine -> when it runs next
-- KEY   routines_running  zset  routine that runs now -> its slot
-- KEY   routines_inline   zset  routine that its caller runs
-- KEY   routines_pauses   zset  paused routine -> when its pause ends by itself
-- KEY   routines_updated  zset  routine -> when it was changed last
-- KEY   routines_over     zset  routine that has ended -> when it is forgotten
-- KEY   routines_keys     hash  idempotency key -> routine
-- ARGS  wrong_lists       text  "{list} {version} {routine}": off this list, if it has that version still
-- returns how many entries were wrong
local wrong = 0
for _, list in ipairs({routines_due, routines_running, routines_inline, routines_pauses, routines_updated, routines_over}) do
  for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    if redis.call('HEXISTS', routines, id) == 0 then
      wrong = wrong + redis.call('ZREM', list, id)
    end
  end
end
local lists = {due = routines_due, running = routines_running, paused = routines_pauses, over = routines_over}
for i = wrong_lists_at, #ARGV do
  local list, version, id = string.match(ARGV[i], '^(%a+) (%d+) (.*)$')
  if string.match(redis.call('HGET', routines, id) or '', '^%d+ (%d+) ') == version then
    wrong = wrong + redis.call('ZREM', lists[list], id)
  end
end
local keys = redis.call('HGETALL', routines_keys)
for i = 1, #keys, 2 do
  if redis.call('HEXISTS', routines, keys[i + 1]) == 0 then
    wrong = wrong + redis.call('HDEL', routines_keys, keys[i])
  end
end
return wrong
