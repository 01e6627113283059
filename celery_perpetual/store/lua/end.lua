-- End a poll that brought nothing to enqueue, if its claim is still open. The nonce is the poll id.
--
-- KEYS[1] key         hash    the unit
-- KEYS[2] due         zset    unit -> next poll
-- KEYS[3] polls       list    outcomes of the unit
-- KEYS[4] events      stream
-- KEYS[5] paused      hash    scope -> JSON
-- KEYS[6] cursors     set     units that have a cursor
-- ARGV[1] poll        text    poll id
-- ARGV[2] unit        text    name of the unit
-- ARGV[3] outcome     JSON    the outcome
-- ARGV[4] sign        text    outcomes with one sign are folded; '' never
-- ARGV[5] history     int     outcomes kept
-- ARGV[6] ttl         ms      how long they are kept
-- ARGV[7] maxlen      int     cap of the stream
-- ARGV[8] slot        ms      the poll's slot
-- ARGV[9] following   ms      due time on the grid, '' = leave
-- ARGV[10] delay      ms      due this long after now instead, '' = on the grid
-- ARGV[11] trigger    text    trigger of the poll after the delay
-- ARGV[12] failures   text    'add', 'reset' or 'keep' the count of failures in a row
-- ARGV[13] cursor     JSON    new cursor, '' = leave
-- ARGV[14] pause      JSON    pause the unit with this, '' = no
-- returns 'ended', 'already' (this poll ended before) or 'refused' (the claim is somebody else's)
local key, due, polls, events, paused, cursors = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local poll, unit, outcome, sign, history, ttl, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local slot, following, delay, trigger, failures = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local cursor, pause = ARGV[13], ARGV[14]
-- include now
-- include outcome
-- include close
local open = redis.call('HMGET', key, 'claim', 'last')
if open[1] ~= poll then
  return open[2] == poll and 'already' or 'refused'
end
close_poll(poll, unit, {
  key = key, due = due, cursors = cursors, polls = polls, events = events, outcome = outcome, sign = sign, history = tonumber(history),
  ttl = ttl, maxlen = maxlen, slot = slot, following = following, delay = delay, trigger = trigger,
  failures = failures, cursor = cursor,
})
if pause ~= '' then
  redis.call('HSET', paused, unit, pause)
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'pause', 'data', pause)
end
return 'ended'
