-- Derive what is listed and counted of a batch from its records: how many items are left, whether it stands among the open
-- batches and in the outbox, and which item keys its open items hold.
--
-- KEY   batch          hash  the committed batch
-- KEY   open           zset  unfinished batches
-- KEY   outbox         zset  batches not wholly published
-- ARG   poll           text  its poll id
-- ARG   prefix         text  of all keys
-- ARG   tombstone_ttl  text  ms: how long the counters of a finished batch stay
-- returns how many entries were wrong: {counter, open, outbox, item keys}
-- include now
-- include types
-- include record
local n, pub, left, at, unit = unpack(redis.call('HMGET', batch, 'n', 'pub', 'left', 'at', 'unit'))
if not n then
  return {0, redis.call('ZREM', open, poll), redis.call('ZREM', outbox, poll), 0}
end
local item_keys, chunks = prefix .. ':keys:' .. unit, math.floor((tonumber(n) + 499) / 500)
must_be(item_keys, 'hash')
for chunk = 0, chunks - 1 do
  must_be(prefix .. ':i:' .. poll .. ':' .. chunk, 'list')
  must_be(prefix .. ':d:' .. poll .. ':' .. chunk, 'string')
end
local found, count, keys = {0, 0, 0, 0}, 0, {}
for chunk = 0, chunks - 1 do
  local done = prefix .. ':d:' .. poll .. ':' .. chunk
  for position, record in ipairs(redis.call('LRANGE', prefix .. ':i:' .. poll .. ':' .. chunk, 0, -1)) do
    if redis.call('GETBIT', done, position - 1) == 0 then
      count = count + 1
      local key = key_of(record)
      if key then
        keys[#keys + 1] = {key, string.sub(poll, 1, 28) .. string.format('%08x', chunk * 500 + position - 1)}
      end
    end
  end
end
if count ~= tonumber(left) then
  redis.call('HSET', batch, 'left', count)
  found[1] = 1
end
if count > 0 then
  redis.call('PERSIST', batch)
  found[2] = redis.call('ZADD', open, 'NX', at or now, poll)
else
  -- Where the counter was too high, the last end has left them.
  for chunk = 0, chunks - 1 do
    redis.call('DEL', prefix .. ':i:' .. poll .. ':' .. chunk, prefix .. ':d:' .. poll .. ':' .. chunk)
  end
  found[2] = redis.call('ZREM', open, poll)
  if redis.call('PTTL', batch) < 0 then
    redis.call('PEXPIRE', batch, tombstone_ttl)
  end
end
if count > 0 and tonumber(pub) < tonumber(n) then
  found[3] = redis.call('ZADD', outbox, 'NX', now, poll)
else
  found[3] = redis.call('ZREM', outbox, poll)
end
for _, pair in ipairs(keys) do
  found[4] = found[4] + redis.call('HSETNX', item_keys, pair[1], pair[2])
end
return found
