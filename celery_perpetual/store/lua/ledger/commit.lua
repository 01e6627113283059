-- Commit a batch: records, item keys, counters, cursor and outcome become true in one step, if the claim is open.
-- The call brings the records of a small batch and, where the broker is this Redis, its messages; otherwise the records
-- were staged and the messages follow from the outbox. The nonce is the poll id.
--
-- KEY   unit_hash      hash    the unit
-- KEY   due            zset    unit -> next poll
-- KEY   polls          list    outcomes of the unit
-- KEY   events         stream
-- KEY   batch          hash    the committed batch
-- KEY   item_keys      hash    item key -> task id
-- KEY   follow_ups     list    records that after_success has named
-- KEY   staged         zset    "poll unit" -> since
-- KEY   outbox         zset    polls not wholly published
-- KEY   cursors        set     units that have a cursor
-- KEY   open           zset    batches that are not finished -> when they were committed
-- KEYS  targets        list    what the broker commands name
-- ARG   poll           text    poll id
-- ARG   unit           text    name of the unit
-- ARG   outcome        JSON    the outcome
-- ARG   history        text    outcomes kept
-- ARG   ttl            text    ms: how long they are kept
-- ARG   events_maxlen  text    cap of the stream
-- ARG   channel_prefix text    what the names of channels start with
-- ARG   slot           text    ms: the poll's slot
-- ARG   following      text    ms: due time on the grid, '' = leave
-- ARG   delay          text    ms: due this long after now instead, '' = on the grid
-- ARG   trigger        text    trigger of the poll after the delay
-- ARG   cursor         JSON    new cursor, '' = leave
-- ARG   task           text    name of the perpetual task
-- ARG   tenant         JSON    the tenant, '' = none
-- ARG   items          int     items of the batch
-- ARG   most           int     most items in flight of the unit
-- ARG   window         text    ms: how long the end of an item key is remembered
-- ARG   chunk_key      text    what the keys of this poll's records start with
-- ARG   chunks         int     chunks that were staged, 0 = records are here
-- ARG   pairs_here     int     item keys that are here
-- ARG   pushed         int     messages that are here
-- ARG   on_done        flag    1 = send a message when the whole batch has ended
-- ARG   retries        text    how a key that fails is held back, see include/hold_key.lua; '' = not at all
-- ARG   low_water      text    items in flight below which the unit is polled at once; '' = off
-- ARG   has_failed     flag    1 = a key of the batch has failed before
-- ARG   followed       int     how many follow-ups, from the oldest, this batch was made of
-- ARG   destinations   JSON    where the messages that are here go, '' = not known
-- ARGS  rest           mixed   records, pairs of item key and task id, broker commands
-- returns 'committed', 'already', 'refused' (claim lost), 'full' (no room) or 'missing' (staged records are gone)
-- include now
-- include outcome
-- include close_poll
-- include types
-- include push
-- include closing
for chunk = 0, math.max(chunks - 1, 0) do
  must_be(chunk_key .. chunk, 'list')
end
local found = redis.call('HMGET', unit_hash, 'claim', 'inflight', 'nudged', 'polled')
if redis.call('EXISTS', batch) == 1 then
  return 'already'
elseif found[1] ~= poll then
  return 'refused'
elseif (tonumber(found[2]) or 0) + items > most then
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
local at = rest_at
if chunks == 0 then
  redis.call('RPUSH', chunk_key .. '0', unpack(ARGV, at, at + items - 1))
  at = at + items
end
if pairs_here > 0 then
  redis.call('HSET', item_keys, unpack(ARGV, at, at + 2 * pairs_here - 1))
  at = at + 2 * pairs_here
end
-- The fields that each end of an item reads come first.
redis.call('HSET', batch, 'left', items, 'unit', unit, 'n', items, 'closing', closing_text(window, on_done, has_failed, low_water,
  retries, ''), 'owner', 'unit', 'task', task, 'pub', pushed, 'at', now, 'pub_at', now)
redis.call('ZADD', open, now, poll)
if destinations ~= '' then
  redis.call('HSET', batch, 'to:0', destinations)
end
if tenant ~= '' then
  redis.call('HSET', batch, 'tenant', tenant)
end
if followed > 0 then
  redis.call('LTRIM', follow_ups, followed, -1)
end
redis.call('HINCRBY', unit_hash, 'inflight', items)
redis.call('ZREM', staged, poll .. ' ' .. unit)
close_poll(poll, unit, {
  unit_hash = unit_hash, due = due, cursors = cursors, polls = polls, outcome = outcome, sign = '', history = history,
  ttl = ttl, slot = slot, following = following, delay = delay, trigger = trigger,
  failures = 'reset', moves = true, cursor = cursor, nudged = found[3], polled = found[4],
})
wake_waiters({[unit] = poll})
if pushed < items then
  redis.call('ZADD', outbox, now, poll)
else
  push(at)
end
return 'committed'
