-- Which of some item keys are in flight, have ended in the window, or have failed before. Only what is found is answered.
--
-- KEY   item_keys   hash  item key -> task id
-- KEY   recent      hash  item key -> when its last task ended, and its id
-- KEY   before      hash  the same, of older ends
-- KEY   failed      zset  item key -> until when it is held back, ms; inf = parked
-- KEY   failures    hash  item key -> count, time and more of its failures
-- ARG   since       ms    an end at this time or later counts
-- ARG   backs_off   flag  1 = keys are held back for their back-off; 0 = only parked ones are
-- ARGS  asked       text  item keys
-- returns position of the key among those asked for, task id that holds it or '', 1 if it has ended then, 2 if it is
-- held back or parked, 1 if it has failed before and is free, else 0; and so on
-- include now
-- include clock_step
local holders, found = redis.call('HMGET', item_keys, unpack(ARGV, asked_at)), {}

local function remembered(ends)
  return redis.call('EXISTS', ends) == 1 and redis.call('HMGET', ends, unpack(ARGV, asked_at)) or {}
end

local ended, ended_before = remembered(recent), remembered(before)
local untils = redis.call('EXISTS', failed) == 1 and redis.call('ZMSCORE', failed, unpack(ARGV, asked_at)) or {}

-- A failure that lies ahead was stored while the clock was ahead, and so would hold its key for too long.
local function is_held(key, till)
  if till == math.huge then
    return true
  elseif not backs_off or till <= now then
    return false
  end
  local failure = redis.call('HGET', failures, key)
  return not (failure and is_ahead(string.match(failure, '^%d+|(%d+)|')))
end

for i = 1, #ARGV - asked_at + 1 do
  local last = ended[i] or ended_before[i]
  local at = last and tonumber(string.match(last, '^%d+'))
  local over = at and at >= since and not is_ahead(at)
  local till = untils[i] and (untils[i] == 'inf' and math.huge or tonumber(untils[i]))
  if holders[i] or over or till then
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = i - 1, holders[i] or '', over and 1 or 0
    found[n + 4] = till and (is_held(ARGV[asked_at + i - 1], till) and 2 or 1) or 0
  end
end
return found
