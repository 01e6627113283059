-- Close a poll whose claim is still open: outcome, event, cursor, counters of failure, next due time.
local function close_poll(poll, unit, note)
  write_outcome(note.polls, note.history, note.ttl, note.sign, string.format('%.0f', now), note.outcome)
  redis.call('XADD', note.events, 'MAXLEN', '~', note.maxlen, '*', 'event', 'poll', 'data', note.outcome)
  redis.call('HDEL', note.key, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by', 'killed')
  redis.call('HSET', note.key, 'last', poll, 'polled', now)
  if note.cursor ~= '' then
    redis.call('HSET', note.key, 'cursor', note.cursor)
    redis.call('SADD', note.cursors, unit)
  end
  if note.failures == 'reset' then
    redis.call('HDEL', note.key, 'attempt', 'backoff')
  elseif note.failures == 'add' then
    redis.call('HINCRBY', note.key, 'attempt', 1)
    if note.delay ~= '' then
      redis.call('HSET', note.key, 'backoff', now + tonumber(note.delay))
    end
  end
  if redis.call('ZSCORE', note.due, unit) then
    if note.delay ~= '' then
      -- Strictly after this poll's own slot, or the next claim would be taken for a repetition of it.
      redis.call('ZADD', note.due, math.max(now + tonumber(note.delay), tonumber(note.slot) + 1), unit)
      redis.call('HSET', note.key, 'trigger', note.trigger)
    elseif note.following ~= '' then
      redis.call('ZADD', note.due, note.following, unit)
    elseif redis.call('HGET', note.key, 'waits') then
      -- A slot came while this poll by hand was open.
      redis.call('ZADD', note.due, now, unit)
    end
  end
  redis.call('HDEL', note.key, 'waits')
end
