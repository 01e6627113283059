-- Push messages of a committed batch and remember how far it is published, in one step: a repeat does nothing.
--
-- KEY   batch         hash   the committed batch
-- KEY   outbox        zset   polls not wholly published
-- KEYS  targets       list   what the broker commands name
-- ARG   poll          text   poll id
-- ARG   first         int    index of the first item
-- ARG   last          int    index behind the last item
-- ARG   chunk         text   number of their chunk
-- ARG   destinations  JSON   where the items of this chunk went, '' = not known
-- ARGS  commands      mixed  broker commands; none where the broker is elsewhere and has them already
-- returns 1 done, 2 was done before, 0 not the next part of this batch
-- include now
-- include push
local state = redis.call('HMGET', batch, 'pub', 'n')
local published, total = tonumber(state[1]), tonumber(state[2])
if not published then
  redis.call('ZREM', outbox, poll)
  return 0
elseif published >= last then
  return 2
elseif published ~= first then
  return 0
end
redis.call('HSET', batch, 'pub', last, 'pub_at', now)
if destinations ~= '' then
  redis.call('HSET', batch, 'to:' .. chunk, destinations)
end
if last >= total then
  redis.call('ZREM', outbox, poll)
else
  redis.call('ZADD', outbox, 'XX', now, poll)  -- its publisher goes on: the relay waits
end
push(commands_at)
return 1
