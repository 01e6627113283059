-- Close a poll whose claim is still open: outcome, event, cursor, counters of failure, next due time. In the note,
-- what is '' or left out does not apply. Reads the locals events, events_maxlen, now, channel_prefix of its script; needs
-- outcome.
local now_text, is_trimmed = string.format('%.0f', now), false

local function given(text)
  return text and text ~= ''
end

-- Runs of folded outcomes are folded on the stream too: it gets the first ten of them, then each tenth of the first
-- hundred, and so on. The cursor is in the unit's list only.
local function is_reported(repeated)
  return string.match(string.format('%d', repeated), '^%d0*$')
end

local function report_poll(outcome, repeated)
  if repeated > 1 then
    if not is_reported(repeated) then
      return
    end
    outcome = string.gsub(outcome, '"repeated": 1([,}])', string.format('"repeated": %d%%1', repeated), 1)
  end
  if is_trimmed then
    redis.call('XADD', events, '*', 'event', 'poll', 'data', outcome)
  else
    redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'poll', 'data', outcome)
    is_trimmed = true
  end
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

-- Returns whether the unit is due at once: a nudge or its next slot came while this poll was open.
local function close_poll(poll, unit, note)
  local unit_hash, due, outcome, is_due = note.unit_hash, note.due, note.outcome, false
  if given(note.nudged) and redis.call('ZSCORE', due, unit) then
    -- A nudge came while this poll was open, so the next poll must find the rows that came after the start of this one.
    redis.call('ZADD', due, math.max(now, tonumber(note.slot) + 1), unit)
    redis.call('HSET', unit_hash, 'trigger', note.nudged)
    is_due = true
  elseif given(note.delay) then
    if redis.call('ZSCORE', due, unit) then
      -- Strictly after this poll's own slot, or the next claim would be taken for a repetition of it.
      redis.call('ZADD', due, math.max(now + tonumber(note.delay), tonumber(note.slot) + 1), unit)
      redis.call('HSET', unit_hash, 'trigger', note.trigger or '')
    end
  elseif given(note.following) then
    local at = rested(unit_hash, note)
    redis.call('ZADD', due, 'XX', at, unit)
    is_due = tonumber(at) <= now
  elseif redis.call('HGET', unit_hash, 'waits') then
    -- A slot came while this poll by hand was open.
    redis.call('ZADD', due, 'XX', now, unit)
  end
  if given(note.cursor) then
    outcome = string.sub(outcome, 1, -2) .. ', "cursor": ' .. note.cursor .. '}'
  end
  local repeated = write_outcome(note.polls, tonumber(note.history), note.ttl, note.sign or '', now_text, outcome, note.newest,
    note.polled)
  report_poll(note.outcome, repeated)
  if note.failures == 'reset' then
    redis.call('HDEL', unit_hash, 'claim', 'claimed', 'killed', 'waits', 'nudged', 'attempt', 'backoff', 'failures')
  else
    redis.call('HDEL', unit_hash, 'claim', 'claimed', 'killed', 'waits', 'nudged')
  end
  if note.moves then
    redis.call('HDEL', unit_hash, 'idle')
  end
  if note.failures == 'add' then
    if type(redis.pcall('HINCRBY', unit_hash, 'attempt', 1)) == 'table' then  -- a strange hand has written no number there
      redis.call('HSET', unit_hash, 'attempt', 1)
    end
    redis.call('HSET', unit_hash, 'failures', note.counts or '')
    if given(note.delay) then
      redis.call('HSET', unit_hash, 'backoff', now + tonumber(note.delay))
    end
  end
  if given(note.cursor) then
    redis.call('HSET', unit_hash, 'last', poll, 'polled', now_text, 'cursor', note.cursor)
    redis.call('SADD', note.cursors, unit)
  else
    redis.call('HSET', unit_hash, 'last', poll, 'polled', now_text)
  end
  return is_due
end

-- Wake those who wait for an item of a coming poll, given the poll that has ended by unit. Mostly there are no waiters,
-- and asking for many units at once costs less than publishing for each. A user of Redis who may not ask or publish must not
-- fail the script half-way.
local function wake_waiters(ended)
  local channels, units = {}, {}
  for unit in pairs(ended) do
    channels[#channels + 1], units[#units + 1] = channel_prefix .. unit, unit
  end
  if #units == 0 then
    return
  end
  local waiting = redis.pcall('PUBSUB', 'NUMSUB', unpack(channels))
  for i, unit in ipairs(units) do
    if waiting.err or tonumber(waiting[2 * i]) > 0 then
      redis.pcall('PUBLISH', channels[i], string.format('{"unit": %s, "poll_id": "%s"}', cjson.encode(unit), ended[unit]))
    end
  end
end
