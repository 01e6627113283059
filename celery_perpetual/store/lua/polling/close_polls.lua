-- End polls that brought nothing to enqueue, each if its claim is still open. The nonces are the poll ids.
--
-- Polls that end at about the same time come in one call. They do not depend on each other: one that is refused changes
-- nothing for the rest. Only a key of a wrong type fails all of them, before anything is written, and the caller then
-- sends them one by one.
--
-- KEY   due            zset*   unit -> next poll
-- KEY   events         stream*
-- KEY   paused         hash*   scope -> JSON
-- KEY   cursors        set*    units that have a cursor
-- ARG   unit_prefix    text    what the keys of unit hashes start with
-- ARG   source_prefix  text    what the keys of sources start with
-- ARG   polls_prefix   text    what the keys of outcome lists start with
-- ARG   channel_prefix text    what the names of channels start with
-- ARG   events_maxlen  text    cap of the stream
-- ARG   ttl            text    ms: how long outcomes are kept
-- ARGS  ends           JSON    per poll: its outcome, and a note: an object of texts, in which what is left out is '':
--     poll       its id
--     unit       name of the unit
--     sign       outcomes with one sign are folded; '' never
--     history    outcomes kept
--     slot       the poll's slot, ms
--     following  due time on the grid, ms; '' = leave
--     delay      due this many ms after now instead, '' = on the grid
--     trigger    trigger of the poll after the delay
--     failures   'add', 'reset' or 'keep' the count of failures in a row
--     counts     with 'add': the counts by class or rule, JSON
--     source     key of its source, which is to be left alone
--     hint       for so many ms
--     every      ms: its interval, which is stretched as long as nothing is found
--     longest    ms: up to this
--     moves      '1': it has found something, and its interval is no longer stretched
--     cursor     new cursor, JSON; '' = leave
--     pause      pause the unit with this, JSON; '' = no
-- returns per poll: 'ended', 'soon' (ended, and the unit is due at once, as a nudge or its next slot came meanwhile),
-- 'already' (this poll ended before) or 'refused' (another poll has the claim)
-- include now
-- include outcome
-- include types
-- include clock_step
-- include close_poll
local notes, open, newest, is_due_probed, is_stream_checked = {}, {}, {}, false, false
for i = ends_at, #ARGV, 2 do
  local note = cjson.decode(ARGV[i + 1])
  notes[i], open[note.unit] = note, redis.call('HMGET', unit_prefix .. note.unit, 'claim', 'nudged', 'polled')
  if note.hint then
    must_be(source_prefix .. note.source, 'hash')
  end
  if note.pause then
    probe('HLEN', paused)
  end
  if note.cursor then
    probe('SCARD', cursors)
  end
  newest[note.unit] = redis.call('LINDEX', polls_prefix .. note.unit, 0)
  -- The first write of most ends is the due time, which fails by itself; and most ends are folded and not on the stream.
  if not is_due_probed and (not given(note.following) or note.longest) then
    is_due_probed = probe('ZCARD', due)
  end
  if not is_stream_checked and (note.pause or is_reported(run_of(note.sign or '', '', newest[note.unit]))) then
    is_stream_checked = must_be(events, 'stream')
  end
end
local reply, ended = {}, {}
for i = ends_at, #ARGV, 2 do
  local note = notes[i]
  local poll, unit = note.poll, note.unit
  local claim, nudged, polled = unpack(open[unit])
  if claim ~= poll then
    reply[#reply + 1] = redis.call('HGET', unit_prefix .. unit, 'last') == poll and 'already' or 'refused'
  else
    note.unit_hash, note.polls, note.outcome, note.newest = unit_prefix .. unit, polls_prefix .. unit, ARGV[i], newest[unit]
    note.due, note.cursors, note.ttl, note.nudged, note.polled = due, cursors, ttl, nudged, polled
    local is_due = close_poll(poll, unit, note)
    if note.hint then
      local source = source_prefix .. note.source
      local asked, at = unpack(redis.call('HMGET', source, 'quiet', 'at'))
      local quiet = now + tonumber(note.hint)
      if not is_ahead(at) then
        quiet = math.max(quiet, tonumber(asked) or 0)
      end
      redis.call('HSET', source, 'quiet', quiet, 'at', now)
      redis.call('PEXPIRE', source, math.max(quiet - now + 60000, redis.call('PTTL', source)))
    end
    if note.pause then
      redis.call('HSET', paused, unit, note.pause)
      redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'pause', 'data', note.pause)
    end
    open[unit], ended[unit] = {}, poll
    reply[#reply + 1] = is_due and 'soon' or 'ended'
  end
end
wake_waiters(ended)
return reply
