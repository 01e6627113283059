-- Which of some item keys are in flight, or have ended of late. Only what is found is answered.
--
-- KEYS[1] item_keys    hash     item key -> task id
-- KEYS[2] recent       zset     item key -> when its task ended
-- ARGV[1] since        ms       an end at this time or later counts
-- ARGV[2..] key        text     item keys
-- returns position of the key among those asked for, task id that holds it or '', 1 if it has ended of late; and so on
local item_keys, recent, since = KEYS[1], KEYS[2], tonumber(ARGV[1])
local holders, found = redis.call('HMGET', item_keys, unpack(ARGV, 2)), {}
local ended = redis.call('EXISTS', recent) == 1 and redis.call('ZMSCORE', recent, unpack(ARGV, 2)) or {}
for i = 1, #ARGV - 1 do
  local over = ended[i] and tonumber(ended[i]) >= since
  if holders[i] or over then
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = i - 1, holders[i] or '', over and 1 or 0
  end
end
return found
