-- The facts on units. Changes nothing.
--
-- KEY   due            zset* unit -> when it is polled next
-- ARG   unit_prefix    text  what the keys of unit hashes start with
-- ARG   polls_prefix   text  what the keys of outcome lists start with
-- ARG   failed_prefix  text  what the keys of failed item keys start with
-- ARG   share          text  leave out cursors, and newest outcomes of polls that went well in less than this share of
--                            the interval; '' = leave out nothing
-- ARG   brief          flag  1 = count no keys as held back or parked, and read no outcome of which other facts say that it
--                            is left out
-- ARGS  units          text  names
-- returns JSON: per unit a list of items in flight, failed polls in a row, end of the back-off, last poll, schedule, due
-- time, keys held back, keys parked, cursor, newest outcome; what is not known is false
-- include now
local function seconds(text)
  local hours, minutes, rest = string.match(text or '', '^%d+-%d+-%d+T(%d+):(%d+):([%d.]+)')
  return hours and hours * 3600 + minutes * 60 + rest
end

local function is_remarkable(attempt, spec, parked, outcome)
  if (tonumber(attempt) or 0) > 0 or parked > 0 then
    return true
  end
  local gate = string.match(outcome, '"gate": "(%w+)"')
  if gate == 'hanging' or gate == 'preflight' then
    return true
  end
  local every = tonumber(string.match(spec or '', '^every (%d+) ms$'))
  local begun = seconds(string.match(outcome, '"started_at": "([^"]+)"'))
  local over = seconds(string.match(outcome, '"finished_at": "([^"]+)"'))
  -- No poll lasts for a day, so that the date says nothing.
  return every ~= nil and begun ~= nil and over ~= nil and (over - begun) % 86400 * 1000 >= tonumber(share) * every
end

-- A poll lasts from its slot, or later, until its end. Of a unit that is being polled only the newest outcome says more.
local function was_quick(attempt, spec, slot, polled)
  local every = tonumber(string.match(spec or '', '^every (%d+) ms$'))
  local longest = (tonumber(polled) or 0) - (tonumber(slot) or 0)
  return (tonumber(attempt) or 0) == 0 and every and slot and longest >= 0 and longest < tonumber(share) * every
end

local after = string.format('(%.0f', now)
local reply, times = {}, units_at <= #ARGV and redis.call('ZMSCORE', due, unpack(ARGV, units_at))
for i = units_at, #ARGV do
  local name = ARGV[i]
  local facts = redis.call('HMGET', unit_prefix .. name, 'inflight', 'attempt', 'backoff', 'polled', 'spec', 'cursor', 'slot')
  local held, parked, failed = 0, 0, failed_prefix .. name
  if not brief and redis.call('EXISTS', failed) == 1 then
    held = redis.call('ZCOUNT', failed, after, '(+inf')
    parked = redis.call('ZCOUNT', failed, '+inf', '+inf')
  end
  local cursor, is_read = facts[6], not (brief and was_quick(facts[2], facts[5], facts[7], facts[4]))
  local newest = is_read and redis.call('LINDEX', polls_prefix .. name, 0)
  if share ~= '' then
    cursor = false
    newest = newest and is_remarkable(facts[2], facts[5], parked, newest) and newest
  end
  reply[#reply + 1] = {facts[1], facts[2], facts[3], facts[4], facts[5], times[i - units_at + 1], held, parked,
    cursor, newest}
end
return #reply == 0 and '[]' or cjson.encode(reply)
