-- Make units known: a first due time for new ones, a new grid for those whose schedule changed. A unit whose poll was
-- left open by an earlier leader is due again for that very slot.
--
-- KEY   leader       string  owner:term of the living leader
-- KEY   units        zset    unit -> last seen
-- KEY   due          zset    unit -> next poll
-- ARG   mine         text    owner:term
-- ARG   unit_prefix  text    what the keys of unit hashes start with
-- ARGS  rows         mixed   four per unit: name, schedule, interval in ms or '', first due time in ms
-- returns 1, or 0 when this caller does not lead
-- include now
-- include must_be
if redis.call('GET', leader) ~= mine then
  return 0
end
for i = rows_at, #ARGV, 4 do
  must_be(unit_prefix .. ARGV[i], 'hash')
end
for i = rows_at, #ARGV, 4 do
  local unit, spec, every, first = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local key = unit_prefix .. unit
  local known = redis.call('HMGET', key, 'spec', 'anchor', 'claim_by', 'claim_slot', 'claim_trigger')
  redis.call('ZADD', units, now, unit)
  if known[1] ~= spec then
    local anchor = tonumber(known[2])
    if known[1] and every and anchor then
      first = string.format('%.0f', anchor + math.ceil((now - anchor) / every) * every)
    end
    redis.call('HSET', key, 'spec', spec)
    redis.call('HDEL', key, 'trigger')
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
return 1
