-- Settle the end of one item: its key and its room are free, the batch counts it, the ledger forgets it.
-- Only the first end of an item counts, so a repeat changes nothing.
--
-- KEYS[1] batch        hash    the committed batch
-- KEYS[2] chunk        list    records
-- KEYS[3] done         string  bitmap of items that have ended
-- ARGV[1] id           text    task id
-- ARGV[2] position     int     of the item within its chunk
-- ARGV[3] status       text    how it ended
-- ARGV[4] ttl          ms      how long the counters of a finished batch stay
-- ARGV[5] unit_prefix  text    what the keys of unit hashes start with
-- ARGV[6] keys_prefix  text    what the keys of item keys start with
-- ARGV[7] recent_prefix  text  what the keys of recently ended item keys start with
-- returns 1 first end, 2 had ended before, 0 not in the ledger
local batch, chunk, done = KEYS[1], KEYS[2], KEYS[3]
local id, position, status, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local unit_prefix, keys_prefix, recent_prefix = ARGV[5], ARGV[6], ARGV[7]
-- include now
-- include record
local unit, window = unpack(redis.call('HMGET', batch, 'unit', 'window'))
if not unit then
  return 0
end
local record = redis.call('LINDEX', chunk, position)
if not record or redis.call('GETBIT', done, position) == 1 then
  return 2
end
redis.call('SETBIT', done, position, 1)
redis.call('HINCRBY', batch, status, 1)
redis.call('HINCRBY', unit_prefix .. unit, 'inflight', -1)
local key = key_of(record)
if key and redis.call('HGET', keys_prefix .. unit, key) == id then
  redis.call('HDEL', keys_prefix .. unit, key)
  if tonumber(window) > 0 then
    local recent = recent_prefix .. unit
    local over = redis.call('ZRANGEBYSCORE', recent, '-inf', now, 'LIMIT', 0, 100)
    if #over > 0 then
      redis.call('ZREM', recent, unpack(over))
    end
    redis.call('ZADD', recent, now + tonumber(window), key)
    redis.call('PEXPIRE', recent, window)
  end
end
if redis.call('BITCOUNT', done) >= redis.call('LLEN', chunk) then
  redis.call('DEL', chunk, done)
end
if redis.call('HINCRBY', batch, 'left', -1) <= 0 then
  redis.call('PEXPIRE', batch, ttl)
end
return 1
