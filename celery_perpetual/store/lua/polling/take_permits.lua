-- Give due units a permit to poll their sources. A unit that gets none now is due when its permit counts.
--
-- Permits of a source are min_interval apart. A unit that must wait gets the next permit that is free, so that it is asked
-- once and not with every permit of another one. After a stretch without a leader several permits count: one of these units is
-- polled at once, and the others get new permits.
--
-- KEY   leader         string  owner:term of the living leader
-- KEY   due            zset    unit -> next poll
-- ARG   mine           text    owner:term
-- ARG   call           text    nonce: the same call is answered the same
-- ARG   unit_prefix    text    what the keys of unit hashes start with
-- ARG   source_prefix  text    what the keys of sources start with
-- ARGS  rows           mixed   three per unit: name, source, ms between two polls of that source
-- returns per unit: 0 it may be polled now, -1 it has a permit for later, or until when the source has asked to be left alone
-- include now
-- include types
-- include clock_step
local KEPT = 60000
for i = rows_at, #ARGV, 3 do
  must_be(unit_prefix .. ARGV[i], 'hash')
  must_be(source_prefix .. ARGV[i + 1], 'hash')
end

-- If the last change of a source lies ahead, the store's clock was ahead then, and so are its times.
local function source_of(key)
  local quiet, last, free, by, at = unpack(redis.call('HMGET', key, 'quiet', 'last', 'free', 'by', 'at'))
  if is_ahead(at) then
    redis.call('HDEL', key, 'quiet', 'last', 'free', 'at')
    return 0, 0, 0, by
  end
  return tonumber(quiet) or 0, tonumber(last) or 0, tonumber(free) or 0, by
end

local function permit_of(unit, source, pace)
  local key, unit_hash = source_prefix .. source, unit_prefix .. unit
  local quiet, last, free, by = source_of(key)
  if by == call .. unit then
    return 0
  elseif quiet > now then
    return quiet
  elseif pace == 0 then
    return 0
  end
  local permit, earliest = tonumber(redis.call('HGET', unit_hash, 'permit')) or 0, last + pace
  if earliest <= now and (permit == 0 and free <= now or permit > 0 and permit <= now) then
    redis.call('HSET', key, 'last', now, 'by', call .. unit, 'free', math.max(free, now + pace), 'at', now)
    redis.call('PEXPIRE', key, math.max(free - now, 0) + pace + KEPT)
    redis.call('HDEL', unit_hash, 'permit')
    return 0
  end
  if permit <= now - 2 * pace or permit > free then
    -- None yet, or missed.
    permit = math.max(free, earliest, now)
    redis.call('HSET', key, 'free', permit + pace, 'at', now)
    redis.call('PEXPIRE', key, permit + pace - now + KEPT)
    redis.call('HSET', unit_hash, 'permit', string.format('%.0f', permit))
  end
  redis.call('ZADD', due, 'XX', math.max(permit, earliest), unit)
  return -1
end

if redis.call('GET', leader) ~= mine then
  local reply = {}
  for i = rows_at, #ARGV, 3 do
    reply[#reply + 1] = 0  -- the claim refuses it
  end
  return reply
end
local reply = {}
for i = rows_at, #ARGV, 3 do
  reply[#reply + 1] = permit_of(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]))
end
return reply
