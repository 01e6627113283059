-- Close a poll whose claim is still open: outcome, event, cursor, counters of failure, next due time. In the note,
-- what is '' or left out does not apply. Reads the locals events, events_maxlen, now of its script; needs outcome.
local function given(text)
  return text and text ~= ''
end

-- Runs of folded outcomes are folded on the stream too: it gets the first ten of them, then each tenth of the first
-- hundred, and so on. The cursor is in the unit's list only.
local function report_poll(outcome, repeated)
  if repeated > 1 then
    if not string.match(string.format('%d', repeated), '^%d0*$') then
      return
    end
    outcome = string.gsub(outcome, '"repeated": 1([,}])', string.format('"repeated": %d%%1', repeated), 1)
  end
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'poll', 'data', outcome)
end

-- The next due time on the grid. Where nothing is found again and again it is twice as far away each time, up to the longest
-- interval.
local function rested(unit_hash, note)
  local following = tonumber(note.following)
  if not note.longest then
    return following
  end
  local times = math.min(tonumber(redis.call('HINCRBY', unit_hash, 'idle', 1)), 32)
  local slots = math.max(math.min(2 ^ times, math.floor(tonumber(note.longest) / tonumber(note.every))), 1)
  return string.format('%.0f', following + (slots - 1) * tonumber(note.every))
end

local function close_poll(poll, unit, note)
  local unit_hash, due, outcome = note.unit_hash, note.due, note.outcome
  if given(note.cursor) then
    outcome = string.sub(outcome, 1, -2) .. ', "cursor": ' .. note.cursor .. '}'
  end
  local repeated = write_outcome(note.polls, tonumber(note.history), note.ttl, note.sign or '', string.format('%.0f', now),
    outcome, note.newest)
  report_poll(note.outcome, repeated)
  if given(note.nudged) and redis.call('ZSCORE', due, unit) then
    -- A nudge came while this poll was open, so the next poll must find the rows that came after the start of this one.
    redis.call('ZADD', due, math.max(now, tonumber(note.slot) + 1), unit)
    redis.call('HSET', unit_hash, 'trigger', note.nudged)
  elseif given(note.delay) then
    if redis.call('ZSCORE', due, unit) then
      -- Strictly after this poll's own slot, or the next claim would be taken for a repetition of it.
      redis.call('ZADD', due, math.max(now + tonumber(note.delay), tonumber(note.slot) + 1), unit)
      redis.call('HSET', unit_hash, 'trigger', note.trigger or '')
    end
  elseif given(note.following) then
    redis.call('ZADD', due, 'XX', rested(unit_hash, note), unit)
  elseif redis.call('HGET', unit_hash, 'waits') then
    -- A slot came while this poll by hand was open.
    redis.call('ZADD', due, 'XX', now, unit)
  end
  if note.failures == 'reset' then
    redis.call('HDEL', unit_hash, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by', 'killed',
      'waits', 'nudged', 'attempt', 'backoff', 'failures')
  else
    redis.call('HDEL', unit_hash, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by', 'killed',
      'waits', 'nudged')
  end
  if note.failures == 'reset' and not note.longest then
    redis.call('HDEL', unit_hash, 'idle')
  end
  if note.failures == 'add' then
    redis.call('HINCRBY', unit_hash, 'attempt', 1)
    redis.call('HSET', unit_hash, 'failures', note.counts or '')
    if given(note.delay) then
      redis.call('HSET', unit_hash, 'backoff', now + tonumber(note.delay))
    end
  end
  if given(note.cursor) then
    redis.call('HSET', unit_hash, 'last', poll, 'polled', now, 'cursor', note.cursor)
    redis.call('SADD', note.cursors, unit)
  else
    redis.call('HSET', unit_hash, 'last', poll, 'polled', now)
  end
  -- Wakes those who wait for an item of a coming poll. A user of Redis who may not publish must not fail it half-way.
  redis.pcall('PUBLISH', note.channel_prefix .. unit, string.format('{"unit": %s, "poll_id": "%s"}', cjson.encode(unit), poll))
end
