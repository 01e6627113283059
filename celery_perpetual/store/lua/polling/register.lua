-- Make units known: a first due time for new ones, a new grid for those whose schedule changed. A unit whose poll was
-- left open by an earlier leader is due again for that very slot.
--
-- A unit whose slot, claim or last poll lies ahead was polled while the store's clock was ahead. Its times are pulled
-- back: it is due at once, or when its open claim has lasted for as long as it was to last.
--
-- KEY   leader       string  owner:term of the living leader
-- KEY   units        zset    unit -> last seen
-- KEY   due          zset    unit -> next poll
-- KEY   events       stream
-- ARG   mine         text    owner:term
-- ARG   unit_prefix  text    what the keys of unit hashes start with
-- ARG   events_maxlen  text  cap of the stream
-- ARGS  rows         mixed   four per unit: name, schedule, interval in ms or '', first due time in ms
-- returns how many units were pulled back, or -1 when this caller does not lead
-- include now
-- include rfc3339
-- include types
-- include clock_step
if redis.call('GET', leader) ~= mine then
  return -1
end

local function pull_back(unit, key, known)
  local claim_started, claim_until, at = tonumber(known[8]), tonumber(known[9]), now
  redis.call('HDEL', key, 'slot', 'backoff', 'trigger')
  redis.call('HSET', key, 'polled', now)
  if is_ahead(known[2]) then
    redis.call('HDEL', key, 'anchor')
  end
  if claim_started then
    at = now + claim_until - claim_started
    redis.call('HSET', key, 'claim_started', now, 'claim_slot', now, 'claim_until', at)
  end
  redis.call('ZADD', due, at, unit)
end

local pulled_back = 0
for i = rows_at, #ARGV, 4 do
  must_be(unit_prefix .. ARGV[i], 'hash')
end
for i = rows_at, #ARGV, 4 do
  local unit, spec, every, first = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local key = unit_prefix .. unit
  local known = redis.call('HMGET', key, 'spec', 'anchor', 'claim_by', 'claim_slot', 'claim_trigger', 'slot', 'polled',
    'claim_started', 'claim_until')
  redis.call('ZADD', units, now, unit)
  if is_ahead(known[6]) or is_ahead(known[7]) or is_ahead(known[8]) then
    pull_back(unit, key, known)
    redis.call('HSET', key, 'spec', spec)
    pulled_back = pulled_back + 1
  elseif known[1] ~= spec then
    local anchor = tonumber(known[2])
    if known[1] and every and anchor then
      first = string.format('%.0f', anchor + math.ceil((now - anchor) / every) * every)
    end
    redis.call('HSET', key, 'spec', spec)
    redis.call('HDEL', key, 'trigger')
    if not every then
      redis.call('HDEL', key, 'anchor')
    end
    redis.call('ZADD', due, first, unit)
  else
    redis.call('ZADD', due, 'NX', first, unit)
    if known[3] and known[3] ~= '' and known[3] ~= mine and redis.call('ZADD', due, 'LT', 'CH', known[4], unit) == 1 then
      if known[5] ~= 'schedule' then
        redis.call('HSET', key, 'trigger', known[5])
      end
    end
  end
end
if pulled_back > 0 then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'alert.clock_stepped', 'data',
    cjson.encode({units = pulled_back, at = rfc3339(now)}))
end
return pulled_back
