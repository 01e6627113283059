-- Claim occurrences: one poll id per unit, refused where another poll is open.
--
-- A claim of the leader takes over the open claim of an earlier term, because that beat is gone or has stopped
-- leading; its poll ends as superseded and its batch will be refused. A claim that outlived its time is abandoned.
-- Sent twice with the same poll ids it answers the same.
--
-- The claim of a poll by hand, and of one that has travelled to a worker, belongs to no term: a hand-over leaves it
-- alone. A unit whose poll was open when a leader died, twice in a row, travels from then on for a day: its poll may
-- have killed them.
--
-- KEY   leader         string* owner:term of the living leader
-- KEY   units          zset*   unit -> last seen
-- KEY   due            zset*   unit -> next poll
-- KEY   paused         hash*   scope -> JSON
-- KEY   events         stream*
-- KEY   marks          zset*   owner -> its last mark
-- ARG   mine           text    owner:term, or '' for a poll by hand
-- ARG   mark           text    the last mark that this owner was answered, 0 = none; `now` becomes a newer one
-- ARG   unit_prefix    text    what the keys of unit hashes start with
-- ARG   polls_prefix   text    what the keys of outcome lists start with
-- ARG   events_maxlen  text    cap of the stream
-- ARG   ttl            text    ms: how long outcomes are kept
-- ARG   seen           ms      when the due units were read
-- ARG   back_off       text    ms: "{after one failure} {after two} …", the last one for all further ones
-- ARGS  wanted         text    per unit, none twice: "{poll} {slot} {next} {anchor} {valid} {travels} {history} {unit}", and on
--   a line of its own the queue of its task, '' where it is not known; anchor is a calendar's slot that is due next; times and durations are
--   ms, and '-' is none
-- returns {now or 0 when not leading, then per unit:
-- "{verdict} {travels} {in flight} {attempt} {last poll at} {trigger} {cursor}", and on a line of its own its failures in a
-- row, JSON}; travels is 1 or 0, '-' is none, and the cursor is empty where there is none
-- include now
-- include pause_holds
-- include rfc3339
-- include outcome
-- include types
-- include clock_step
-- include unit_name
-- include claimed
-- include other_claim
if mine == '' then
  probe('ZCARD', units)
elseif redis.call('GET', leader) ~= mine then
  return {0}
end
-- The store may have gone back to a moment at which the same owner led, and the cursors with it.
local owner, last_mark = string.match(mine, '^(.*):'), tonumber(mark)
local mark_there = owner and last_mark > 0 and (tonumber(redis.call('ZSCORE', marks, owner)) or 0)
if mark_there and mark_there < last_mark then
  return {0}
end

-- Most of the time nothing is paused, and no scope need be read.
local any_paused = mine ~= '' and redis.call('HLEN', paused) > 0
local function is_paused(unit, queue)
  for _, scope in ipairs(any_paused and scopes_of(unit, queue) or {}) do
    if holds(redis.call('HGET', paused, scope)) then
      return true
    end
  end
  return false
end

local function back_off_after(failures)
  local delay
  for each in string.gmatch(back_off, '%d+') do
    delay, failures = tonumber(each), failures - 1
    if failures == 0 then
      break
    end
  end
  return delay
end

-- A beat that stops gives up its polls, so a poll that is still open means that its beat was killed, or suspended for long.
local function ban_if_it_kills(unit_hash, unit, times)
  redis.call('HSET', unit_hash, 'killed', times)
  local banned = times >= 2
  if banned then
    redis.call('HSET', unit_hash, 'banned', now + 86400000, 'killed', 0)
    redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'alert.poll_killed_leader', 'data',
      cjson.encode({unit = unit, at = rfc3339(now)}))
  end
  return banned
end

-- Texts of times, because a script makes a number a text for the price of half a command.
local now_text = string.format('%.0f', now)
local tills = setmetatable({}, {__index = function(known, valid)
  known[valid] = string.format('%.0f', now + valid)
  return known[valid]
end})

-- Only what a claim takes over is written before the due time, whose write fails where its key is of a wrong type.
local polls = {}
for i = wanted_at, #ARGV do
  local poll, slot, following, next_anchor, valid, travels, history, unit, queue =
    string.match(ARGV[i], '^(%S+) (%d+) (%S+) (%S+) (%d+) (%d) (%d+) ([^\n]*)\n?(.*)$')
  local facts = redis.call('HMGET', unit_prefix .. unit, 'claim', 'slot', 'anchor', 'cursor', 'inflight', 'attempt', 'polled',
    'trigger', 'banned', 'last', 'refused')
  local open = {}
  if facts[1] then
    probe('ZCARD', due)
    must_be(events, 'stream')
    must_be(polls_prefix .. unit, 'list')
    open = claim_of(unit_prefix .. unit, facts[1])
  end
  polls[i] = {poll, slot, following, tonumber(valid), travels == '1', tonumber(history), unit, facts, open, next_anchor, queue}
end
local reply = {now}
for i = wanted_at, #ARGV do
  local poll, slot_text, following, valid, travels, history, unit, facts, open, next_anchor, queue = unpack(polls[i])
  local claim, last_slot, anchor, cursor, in_flight, attempt, polled, due_by = unpack(facts)
  local travels_until, last, refused = facts[9], facts[10], facts[11]
  local unit_hash, slot = unit_prefix .. unit, tonumber(slot_text)
  local trigger = mine == '' and 'manual' or (due_by and string.match(due_by, '^%S+$') or 'schedule')
  local verdict, stale, fields = 'claimed', false, nil
  if claim == poll then
    trigger, travels = open.trigger, mine ~= '' and (travels or (tonumber(travels_until) or 0) > now)
  elseif refused == poll then
    verdict, following = 'backoff', redis.call('HGET', unit_hash, 'backoff')  -- sent once more
  elseif last == poll then
    verdict, stale = 'early', true  -- a claim that was sent once more, after its poll has ended
  elseif mine ~= '' and (tonumber(polled) or 0) > seen and tonumber(polled) <= now then
    verdict, stale = 'early', true  -- a poll has ended since, and has set the due time anew
  elseif mine ~= '' and is_paused(unit, queue) then
    verdict = 'paused'
  elseif claim and may_end(open) then
    verdict = 'busy'
  elseif tonumber(last_slot) and not is_ahead(last_slot)
    and (slot < tonumber(last_slot) or (slot == tonumber(last_slot) and not claim)) then
    verdict = 'early'
  elseif claim and open.by == '' and mine ~= '' then
    -- Its process is gone: a worker's child that was killed, or a process that polled by hand. It counts as a failure.
    end_other(unit, open, 'abandoned', history)
    local nudged = redis.call('HGET', unit_hash, 'nudged')
    local wait = nudged and 0 or back_off_after(redis.call('HINCRBY', unit_hash, 'attempt', 1))
    verdict, following = 'backoff', string.format('%.0f', now + wait)
    redis.call('HDEL', unit_hash, 'claim', 'claimed', 'nudged')
    redis.call('HSET', unit_hash, 'backoff', following, 'trigger', nudged or 'backoff', 'refused', poll)
  else
    if claim then
      end_other(unit, open, open.till > now and 'superseded' or 'abandoned', history)
    end
    local banned = claim and open.by ~= '' and open.by ~= mine and ban_if_it_kills(unit_hash, unit, open.killed + 1)
    travels = mine ~= '' and (travels or banned or (tonumber(travels_until) or 0) > now)
    local claimed = claimed_text(slot_text, now_text, tills[valid], trigger, mine)
    if mine == '' then
      redis.call('HSET', unit_hash, 'claim', poll, 'claimed', claimed)
      -- Perhaps no leader ever knows this unit; listed here, it is forgotten some day.
      redis.call('ZADD', units, now, unit)
    else
      local new_anchor = next_anchor ~= '-' and next_anchor or not (anchor and string.find(anchor, '^%d+$')) and slot_text
      fields = {'claim', poll, 'claimed', claimed, 'slot', slot_text}
      if new_anchor then
        fields[7], fields[8] = 'anchor', new_anchor
      end
    end
  end
  if mine ~= '' and not stale then
    -- Behind an open claim the unit waits for its end, which sets the due time anew; and should this poll never end,
    -- the unit is due when its claim expires, however far away the next slot is.
    local at = verdict == 'busy' and open.till or following
    if verdict == 'claimed' then
      local till = claim == poll and open.till or now + valid
      if till < tonumber(at) then
        at = claim == poll and till or tills[valid]
      end
    end
    redis.call('ZADD', due, at, unit)
    if fields then
      redis.call('HSET', unit_hash, unpack(fields))
    end
    if due_by and (fields or verdict == 'paused') then
      redis.call('HDEL', unit_hash, 'trigger')
    end
    if verdict == 'paused' or verdict == 'backoff' then
      -- No slot and no claim say when that was; see register.lua.
      redis.call('HSET', unit_hash, 'passed', string.format('%.0f', seen))
    end
    if next_anchor ~= '-' and (verdict == 'paused' or verdict == 'early') then
      redis.call('HSET', unit_hash, 'anchor', next_anchor)
    end
    if verdict == 'busy' then
      redis.call('HSET', unit_hash, 'waits', 1)
    end
  end
  local failures = attempt and redis.call('HGET', unit_hash, 'failures')
  reply[#reply + 1] = table.concat(
    {verdict, travels and '1' or '0', in_flight or '0', attempt or '0', polled or '-', trigger, cursor or ''}, ' ')
    .. (failures and '\n' .. failures or '')
end
if mark_there and mark_there < now then
  redis.call('ZADD', marks, string.format('%.0f', now), owner)
end
return reply
