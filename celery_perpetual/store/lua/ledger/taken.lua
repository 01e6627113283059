-- Which of some item keys are in flight, or have ended of late. Only what is found is answered.
--
-- KEY   item_keys  hash  item key -> task id
-- KEY   recent     zset  item key -> when its task ended
-- ARG   since      ms    an end at this time or later counts
-- ARGS  asked      text  item keys
-- returns position of the key among those asked for, task id that holds it or '', 1 if it has ended of late; and so on
local holders, found = redis.call('HMGET', item_keys, unpack(ARGV, asked_at)), {}
local ended = redis.call('EXISTS', recent) == 1 and redis.call('ZMSCORE', recent, unpack(ARGV, asked_at)) or {}
for i = 1, #ARGV - asked_at + 1 do
  local over = ended[i] and tonumber(ended[i]) >= since
  if holders[i] or over then
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = i - 1, holders[i] or '', over and 1 or 0
  end
end
return found
