-- Commit a batch: records, item keys, counters, cursor and outcome become true in one step, if the claim is open.
-- A small batch brings its records and, where the broker is this Redis, its messages along; otherwise the records
-- were staged and the messages follow from the outbox. The nonce is the poll id.
--
-- KEYS[1] key         hash    the unit
-- KEYS[2] due         zset    unit -> next poll
-- KEYS[3] polls       list    outcomes of the unit
-- KEYS[4] events      stream
-- KEYS[5] batch       hash    the committed batch
-- KEYS[6] item_keys   hash    item key -> task id
-- KEYS[7] staged      zset    "poll unit" -> since
-- KEYS[8] outbox      zset    polls not wholly published
-- KEYS[9] cursors      set     units that have a cursor
-- KEYS[10] open        zset    batches that are not finished -> when they were committed
-- KEYS[11..] target    any     what the broker commands name
-- ARGV[1] poll        text    poll id
-- ARGV[2] unit        text    name of the unit
-- ARGV[3] outcome     JSON    the outcome
-- ARGV[4] history     int     outcomes kept
-- ARGV[5] ttl         ms      how long they are kept
-- ARGV[6] maxlen      int     cap of the stream
-- ARGV[7] slot        ms      the poll's slot
-- ARGV[8] following   ms      due time on the grid, '' = leave
-- ARGV[9] delay       ms      due this long after now instead, '' = on the grid
-- ARGV[10] trigger    text    trigger of the poll after the delay
-- ARGV[11] cursor     JSON    new cursor, '' = leave
-- ARGV[12] task       text    name of the perpetual task
-- ARGV[13] items      int     items of the batch
-- ARGV[14] most       int     most items in flight of the unit
-- ARGV[15] window     ms      how long the end of an item key is remembered
-- ARGV[16] chunk_key  text    what the keys of this poll's records start with
-- ARGV[17] chunks     int     chunks that were staged, 0 = records are here
-- ARGV[18] pairs_here      int     item keys that are here
-- ARGV[19] pushed     int     messages that are here
-- ARGV[20] on_done    int     1 = tell when the whole batch has ended
-- ARGV[21..] record, key, id, command  mixed  records, pairs of item key and task id, broker commands
-- returns 'committed', 'already', 'refused' (claim lost), 'full' (no room) or 'missing' (staged records are gone)
local key, due, polls, events, batch, item_keys = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local staged, outbox, cursors, open = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local poll, unit, outcome, history, ttl, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local slot, following, delay, trigger, cursor, task = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local items, most, window, chunk_key = tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15], ARGV[16]
local chunks, pairs_here, pushed = tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19])
local on_done = ARGV[20]
-- include now
-- include outcome
-- include close_poll
-- include must_be
-- include push
targets_must_be_lists(11)
for chunk = 0, math.max(chunks - 1, 0) do
  must_be(chunk_key .. chunk, 'list')
end
local found = redis.call('HMGET', key, 'claim', 'last', 'inflight')
if redis.call('EXISTS', batch) == 1 then
  return 'already'
elseif found[1] ~= poll then
  return 'refused'
elseif (tonumber(found[3]) or 0) + items > most then
  return 'full'
end
for chunk = 0, chunks - 1 do
  if redis.call('EXISTS', chunk_key .. chunk) == 0 then
    return 'missing'
  end
end

for chunk = 0, chunks - 1 do
  redis.call('PERSIST', chunk_key .. chunk)
end
local at = 21
if chunks == 0 then
  redis.call('RPUSH', chunk_key .. '0', unpack(ARGV, at, at + items - 1))
  at = at + items
end
if pairs_here > 0 then
  redis.call('HSET', item_keys, unpack(ARGV, at, at + 2 * pairs_here - 1))
  at = at + 2 * pairs_here
end
redis.call('HSET', batch, 'unit', unit, 'task', task, 'n', items, 'left', items, 'pub', pushed, 'window', window,
  'at', now, 'pub_at', now)
redis.call('ZADD', open, now, poll)
if on_done == '1' then
  redis.call('HSET', batch, 'on_done', 1)
end
redis.call('HINCRBY', key, 'inflight', items)
redis.call('ZREM', staged, poll .. ' ' .. unit)
close_poll(poll, unit, {
  key = key, due = due, cursors = cursors, polls = polls, events = events, outcome = outcome, sign = '', history = history,
  ttl = ttl, maxlen = maxlen, slot = slot, following = following, delay = delay, trigger = trigger,
  failures = 'reset', cursor = cursor,
})
if pushed < items then
  redis.call('ZADD', outbox, now, poll)
else
  push(at)
end
return 'committed'
