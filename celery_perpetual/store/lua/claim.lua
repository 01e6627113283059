-- Claim occurrences: one poll id per unit, refused where somebody else is at it.
--
-- A claim of the leader takes over the open claim of an earlier term, because that beat is gone or has stopped
-- leading; its poll ends as superseded and its batch will be refused. A claim that outlived its time is abandoned.
-- Sent twice with the same poll ids it answers the same.
--
-- The claim of a poll by hand, and of one that has travelled to a worker, belongs to no term: a hand-over leaves it
-- alone. A unit whose poll was open when a leader died, twice in a row, travels from then on for a day: it may be what
-- killed them.
--
-- KEYS[1] leader        string  owner:term of the living leader
-- KEYS[2] due           zset    unit -> next poll
-- KEYS[3] paused        hash    scope -> JSON
-- KEYS[4] events        stream
-- ARGV[1] mine          text    owner:term, or '' for a poll by hand
-- ARGV[2] unit_prefix   text    what the keys of unit hashes start with
-- ARGV[3] polls_prefix  text    what the keys of outcome lists start with
-- ARGV[4] maxlen        int     cap of the stream
-- ARGV[5..] unit, task, slot, next, poll, valid, travels, history, ttl  mixed  per unit; times and durations in ms
-- returns {now or 0 when not leading, then per unit: verdict, travels, cursor, in flight, attempt, last poll at, trigger}
local leader, due, paused, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local mine, unit_prefix, polls_prefix, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include now
-- include holds
-- include rfc3339
-- include outcome
-- include typed
if mine ~= '' and redis.call('GET', leader) ~= mine then
  return {0}
end

local function is_paused(scope)
  return holds(redis.call('HGET', paused, scope))
end

local function end_other(unit, task, open, status, history, ttl)
  local slot, trigger, started = open[2], open[3], open[4]
  local json = string.format(
    '{"poll_id": %s, "unit": %s, "task": %s, "slot": "%s", "trigger": "%s", "status": "%s", "started_at": "%s",'
      .. ' "finished_at": "%s", "at": "%s"}',
    cjson.encode(open[1]), cjson.encode(unit), cjson.encode(task), rfc3339(tonumber(slot)), trigger, status,
    rfc3339(tonumber(started)), rfc3339(now), rfc3339(now))
  write_outcome(polls_prefix .. unit, history, ttl, '', string.format('%.0f', now), json)
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'poll', 'data', json)
end

-- A beat that stops gives its polls up, so an open one means that its beat was killed, or suspended for long.
local function ban_if_it_kills(key, unit, times)
  redis.call('HSET', key, 'killed', times)
  if times >= 2 then
    redis.call('HSET', key, 'banned', now + 86400000, 'killed', 0)
    redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'alert.poll_killed_leader', 'data',
      cjson.encode({unit = unit, at = rfc3339(now)}))
  end
end

local everything = mine ~= '' and is_paused('*')
for i = 5, #ARGV, 9 do
  must_be(unit_prefix .. ARGV[i], 'hash')
  must_be(polls_prefix .. ARGV[i], 'list')
end
local reply = {now}
for i = 5, #ARGV, 9 do
  local unit, task, slot, following, poll = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local valid, travels, history, ttl = tonumber(ARGV[i + 5]), ARGV[i + 6] == '1', tonumber(ARGV[i + 7]), ARGV[i + 8]
  local key = unit_prefix .. unit
  local u = redis.call('HMGET', key, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by',
    'slot', 'anchor', 'cursor', 'inflight', 'attempt', 'polled', 'trigger', 'killed', 'banned', 'last', 'refused', 'backoff')
  local trigger = mine == '' and 'manual' or (u[13] or 'schedule')
  local verdict, stale = 'claimed', false
  if u[1] == poll then
    trigger, travels = u[3], mine ~= '' and (travels or (tonumber(u[15]) or 0) > now)
  elseif u[17] == poll then
    verdict, following = 'backoff', u[18]  -- sent once more
  elseif u[16] == poll then
    verdict, stale = 'early', true  -- a claim that was sent once more, after its poll has ended
  elseif mine ~= '' and (everything or is_paused(unit)) then
    verdict = 'paused'
    redis.call('HDEL', key, 'trigger')
  elseif u[1] and tonumber(u[5]) > now and (mine == '' or u[6] == mine or u[6] == '') then
    verdict = 'busy'
  elseif u[7] and (slot < tonumber(u[7]) or (slot == tonumber(u[7]) and not u[1])) then
    verdict = 'early'
  elseif u[1] and u[6] == '' and mine ~= '' then
    -- Whoever had it is gone: a worker's child that was killed, or a process that polled by hand. It counts as a failure.
    end_other(unit, task, u, 'abandoned', history, ttl)
    local wait = math.min(30000 * 2 ^ math.min(redis.call('HINCRBY', key, 'attempt', 1) - 1, 10), 300000)
    verdict, following = 'backoff', string.format('%.0f', now + wait)
    redis.call('HDEL', key, 'claim', 'claim_slot', 'claim_trigger', 'claim_started', 'claim_until', 'claim_by')
    redis.call('HSET', key, 'backoff', following, 'trigger', 'backoff', 'refused', poll)
  else
    if u[1] then
      end_other(unit, task, u, tonumber(u[5]) > now and 'superseded' or 'abandoned', history, ttl)
    end
    if u[1] and u[6] ~= '' and u[6] ~= mine then
      ban_if_it_kills(key, unit, (tonumber(u[14]) or 0) + 1)
    end
    travels = mine ~= '' and (travels or (tonumber(redis.call('HGET', key, 'banned')) or 0) > now)
    redis.call('HSET', key, 'claim', poll, 'claim_slot', ARGV[i + 2], 'claim_trigger', trigger, 'claim_started', now,
      'claim_until', now + valid, 'claim_by', mine)
    if mine ~= '' then
      redis.call('HSET', key, 'slot', ARGV[i + 2], 'anchor', u[8] or ARGV[i + 2])
      redis.call('HDEL', key, 'trigger')
    end
  end
  if mine ~= '' and not stale then
    -- Behind an open claim the unit waits for its end, which sets the due time anew; and should this poll never end,
    -- the unit is looked at when its claim expires, however far away the next slot is.
    local at = verdict == 'busy' and u[5] or following
    if verdict == 'claimed' then
      at = math.min(tonumber(at), u[1] == poll and tonumber(u[5]) or now + valid)
    end
    redis.call('ZADD', due, at, unit)
    if verdict == 'busy' then
      redis.call('HSET', key, 'waits', 1)
    end
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = verdict, travels and '1' or '', u[9] or '', u[10] or '0'
  reply[n + 5], reply[n + 6], reply[n + 7] = u[11] or '0', u[12] or '', trigger
end
return reply
