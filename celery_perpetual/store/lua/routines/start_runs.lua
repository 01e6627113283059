-- Start runs of routines: their records say that they run, and the items of one batch are in the ledger, in one step. The
-- call brings the messages too where the broker is this Redis; otherwise they follow from the outbox. All or nothing: if one
-- routine is not as the caller has read it, nothing is written. See include/routine_rows.lua for a row.
--
-- KEY   routines          hash    routine -> record
-- KEY   routines_due      zset    routine -> when it runs next
-- KEY   routines_running  zset    routine that runs now -> its slot
-- KEY   routines_inline   zset    routine that its caller runs -> until when that is believed
-- KEY   routines_pauses   zset    paused routine -> when its pause ends by itself
-- KEY   routines_updated  zset    routine -> when it was changed last
-- KEY   routines_over     zset    routine that has ended -> when it is forgotten
-- KEY   routines_keys     hash    idempotency key -> routine
-- KEY   events            stream
-- KEY   unit_hash         hash    what the batches of routines have in common: items in flight
-- KEY   batch             hash    the batch
-- KEY   chunk             list    records of its items
-- KEY   outbox            zset    batches not wholly published
-- KEY   open              zset    batches that are not finished -> when they were committed
-- KEY   marks             zset    beat -> its last mark
-- KEY   paused            hash    scope -> pause
-- KEYS  targets           list    what the broker commands name
-- ARG   poll              text    id of the batch
-- ARG   unit              text    what its items are in flight of
-- ARG   each              text    what hears of the end of each item
-- ARG   owner             text    the beat that starts them, '' = none: it leaves its mark with the start
-- ARG   mark              int     when they were read, at least: the clock may have been set back since
-- ARG   obeys             text    the pauses that hold these runs: 'all', 'routines' = that of all routines only, '' = none
-- ARG   count             int     rows and items
-- ARG   pushed            int     messages that are here
-- ARG   destinations      JSON    where the messages that are here go, '' = not known
-- ARG   events_maxlen     text    cap of the stream
-- ARGS  rest              mixed   rows, records, broker commands
-- returns one word per row, as write_routines does; or 'held' for each, while a pause holds them
-- include now
-- include rfc3339
-- include routine_rows
-- include pause_holds
-- include push
-- include closing
local words, refused = verdicts_of(rest_at, count)
if refused or redis.call('EXISTS', batch) == 1 then
  return words
end
if obeys ~= '' then
  local everything, all_routines = unpack(redis.call('HMGET', paused, '*', 'routine:*'))
  if holds(all_routines) or (obeys == 'all' and holds(everything)) then
    for row = 1, count do
      words[row] = 'held'
    end
    return words
  end
end
write_rows(rest_at, count, words)
local left = math.max(now, mark)
if owner ~= '' and (tonumber(redis.call('ZSCORE', marks, owner)) or 0) < left then
  redis.call('ZADD', marks, left, owner)
end
local at = rest_at + WIDTH * count
redis.call('RPUSH', chunk, unpack(ARGV, at, at + count - 1))
redis.call('HSET', batch, 'left', count, 'unit', unit, 'n', count, 'closing', closing_text('0', false, false, '', '', each),
  'owner', 'routine', 'task', '', 'pub', pushed, 'at', now, 'pub_at', now)
redis.call('ZADD', open, now, poll)
redis.call('HINCRBY', unit_hash, 'inflight', count)
if destinations ~= '' then
  redis.call('HSET', batch, 'to:0', destinations)
end
if pushed < count then
  redis.call('ZADD', outbox, now, poll)
else
  push(at + count)
end
return words
