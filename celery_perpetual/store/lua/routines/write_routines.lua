-- Change routines: all of them, or none where one is not as the caller has read it. See include/routine_rows.lua for a row.
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
-- KEY   batches           zset    what follows ends and is not done
-- ARG   entry             text    what is done with this of what follows ends, '' = nothing
-- ARG   count             int     rows
-- ARG   events_maxlen     text    cap of the stream
-- ARGS  rows              mixed   rows
-- returns one word per row: 'ok', 'done' (it was written before), or what is wrong: 'exists', 'gone', 'stale', or 'key ' and
-- the routine that has this idempotency key; then nothing was written
-- include now
-- include rfc3339
-- include routine_rows
local words, refused = verdicts_of(rows_at, count)
if not refused then
  write_rows(rows_at, count, words)
  if entry ~= '' then
    redis.call('ZREM', batches, entry)
  end
end
return words
