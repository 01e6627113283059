-- Push messages of a committed batch and remember how far it is published, in one step: a repeat does nothing.
--
-- KEYS[1] batch   hash  the committed batch
-- KEYS[2] outbox  zset  polls not wholly published
-- KEYS[3..] target  any  what the broker commands name
-- ARGV[1] poll    text  poll id
-- ARGV[2] first   int   index of the first item
-- ARGV[3] last    int   index behind the last item
-- ARGV[4..] command  mixed  broker commands; none where the broker is elsewhere and has them already
-- returns 1 done, 2 was done before, 0 not the next part of this batch
local batch, outbox = KEYS[1], KEYS[2]
local poll, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- include now
-- include must_be
-- include push
targets_must_be_lists(3)
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
if last >= total then
  redis.call('ZREM', outbox, poll)
end
push(4)
return 1
