-- Close a poll whose claim is still open: outcome, event, cursor, counters of failure, next due time. In the note,
-- what is '' or left out does not apply. Reads the locals events, events_maxlen, now of its script; needs outcome.
local function given(text)
  return text and text ~= ''
end

local function close_poll(poll, unit, note)
  local key, due = note.key, note.due
  write_outcome(note.polls, tonumber(note.history), note.ttl, note.sign or '', string.format('%.0f', now), note.outcome,
    note.newest)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'poll', 'data', note.outcome)
  if given(note.delay) then
    if redis.call('ZSCORE', due, unit) then
      -- Strictly after this poll's own slot, or the next claim would be taken for a repetition of it.
      redis.call('ZADD', due, math.max(now + tonumber(note.delay), tonumber(note.slot) + 1), unit)
      redis.call('HSET', key, 'trigger', note.trigger or '')
    end
  elseif given(note.following) then
    redis.call('ZADD', due, 'XX', note.following, unit)
  elseif redis.call('HGET', key, 'waits') then
    -- A slot came while this poll by hand was open.
    redis.call('ZADD', due, 'XX', now, unit)
  end
  if note.failures == 'reset' then
    redis.call('HDEL', key, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by', 'killed',
      'waits', 'attempt', 'backoff')
  else
    redis.call('HDEL', key, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by', 'killed',
      'waits')
  end
  if note.failures == 'add' then
    redis.call('HINCRBY', key, 'attempt', 1)
    if given(note.delay) then
      redis.call('HSET', key, 'backoff', now + tonumber(note.delay))
    end
  end
  if given(note.cursor) then
    redis.call('HSET', key, 'last', poll, 'polled', now, 'cursor', note.cursor)
    redis.call('SADD', note.cursors, unit)
  else
    redis.call('HSET', key, 'last', poll, 'polled', now)
  end
end
