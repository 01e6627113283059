-- Make units known: a first due time for new ones, a new grid for those whose schedule changed. A unit whose poll was
-- left open by an earlier leader is due again for that very slot.
--
-- A unit whose slot, claim or last poll lies ahead was polled while the store's clock was ahead, and so was one that was
-- passed over then, as it is paused for example. Its times are pulled back: it is due at once, or when its open claim has
-- lasted for as long as it was to last. What asks for a poll at once, and the first match of a calendar, is not due ahead.
--
-- KEY   leader         string  owner:term of the living leader
-- KEY   units          zset    unit -> last seen
-- KEY   due            zset    unit -> next poll
-- KEY   events         stream
-- ARG   mine           text    owner:term
-- ARG   unit_prefix    text    what the keys of unit hashes start with
-- ARG   events_maxlen  text    cap of the stream
-- ARGS  rows           mixed   four per unit: name, schedule, interval in ms or '', first due time in ms
-- returns how many units were pulled back, or -1 when this caller does not lead
-- include now
-- include rfc3339
-- include types
-- include clock_step
-- include claimed
if redis.call('GET', leader) ~= mine then
  return -1
end

local function stored_of(unit_hash)
  local spec, anchor, claimed, slot, polled, permit, passed, trigger = unpack(redis.call('HMGET', unit_hash, 'spec', 'anchor',
    'claimed', 'slot', 'polled', 'permit', 'passed', 'trigger'))
  local claim_slot, claim_started, claim_until, claim_trigger, claim_by = claimed_facts(claimed)
  return {spec = spec, anchor = anchor, permit = tonumber(permit), claim_by = claim_by, claim_slot = claim_slot,
    claim_trigger = claim_trigger, slot = slot, polled = polled, passed = passed, trigger = trigger,
    claim_started = tonumber(claim_started), claim_until = tonumber(claim_until)}
end

local function pull_back(unit, unit_hash, stored)
  local at = now
  redis.call('HDEL', unit_hash, 'slot', 'backoff', 'trigger', 'passed')
  redis.call('HSET', unit_hash, 'polled', now)
  if is_ahead(stored.anchor) then
    redis.call('HDEL', unit_hash, 'anchor')
  end
  if stored.claim_started then
    at = now + stored.claim_until - stored.claim_started
    redis.call('HSET', unit_hash, 'claimed', claimed_text(now, now, at, stored.claim_trigger, stored.claim_by))
  end
  redis.call('ZADD', due, at, unit)
end

-- Triggers of polls that are due at once, but for those that wait for a permit or for the end of a poll.
local AT_ONCE = {nudge = true, resume = true, refill = true, after_success = true, drain = true, retry = true}

local function was_touched_ahead(unit, stored)
  for _, at in ipairs({stored.slot or 0, stored.polled or 0, stored.claim_started or 0, stored.passed or 0}) do
    if is_ahead(at) then
      return true
    end
  end
  return AT_ONCE[stored.trigger] and not stored.permit and not stored.claim_started
    and is_ahead(redis.call('ZSCORE', due, unit))
end

local pulled_back = 0
for i = rows_at, #ARGV, 4 do
  must_be(unit_prefix .. ARGV[i], 'hash')
end
for i = rows_at, #ARGV, 4 do
  local unit, spec, every, first = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local unit_hash = unit_prefix .. unit
  local stored = stored_of(unit_hash)
  redis.call('ZADD', units, now, unit)
  if was_touched_ahead(unit, stored) then
    pull_back(unit, unit_hash, stored)
    redis.call('HSET', unit_hash, 'spec', spec)
    pulled_back = pulled_back + 1
  elseif stored.spec ~= spec then
    local anchor = tonumber(stored.anchor)
    if stored.spec and every and anchor then
      first = string.format('%.0f', anchor + math.ceil((now - anchor) / every) * every)
    end
    redis.call('HSET', unit_hash, 'spec', spec)
    redis.call('HDEL', unit_hash, 'trigger')
    if not every then
      redis.call('HDEL', unit_hash, 'anchor')
    end
    redis.call('ZADD', due, first, unit)
  else
    redis.call('ZADD', due, (every or stored.slot) and 'NX' or 'LT', first, unit)
    local is_left_open = stored.claim_by and stored.claim_by ~= '' and stored.claim_by ~= mine
    if is_left_open and redis.call('ZADD', due, 'LT', 'CH', stored.claim_slot, unit) == 1 then
      if stored.claim_trigger ~= 'schedule' then
        redis.call('HSET', unit_hash, 'trigger', stored.claim_trigger)
      end
    end
    if stored.permit and stored.permit > now then
      redis.call('ZADD', due, 'LT', now, unit)  -- it asks once more when it may be polled
    end
  end
end
if pulled_back > 0 then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'alert.clock_stepped', 'data',
    cjson.encode({units = pulled_back, at = rfc3339(now)}))
end
return pulled_back
