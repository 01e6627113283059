-- Remember when the last task under an item key ended and, if that was announced, its id: for as long as anybody may ask for either.
-- The hash gets entries for that time; then it becomes the one before, and a new one begins. So nothing has to be taken out of
-- it, and an end need not look at its time but once an hour of its batch. It lives for three times that time: of two million
-- entries that expire, Redis answers no one else for a second, so the end that begins the next one has them freed beside its
-- work, before they expire. Goes on from open_item; reads the locals is_last, completion_ttl, now.
local ended = string.format('%d ', now) .. (head ~= '' and id or '')
local HOUR = 3600000
local seen_until = tonumber(young_until) or 0
if now <= seen_until and seen_until <= now + HOUR and not is_last then
  redis.call('HSET', recent, item.key, ended)
else
  local kept, rest = math.max(window, tonumber(completion_ttl)), redis.call('PTTL', recent)
  if rest >= 0 and rest < 2 * kept then
    local before = prefix .. ':recent_before:' .. unit
    redis.call('UNLINK', before)
    redis.call('RENAME', recent, before)
    rest = -2
  end
  redis.call('HSET', recent, item.key, ended)
  if rest < 0 then
    rest = 3 * kept
    redis.call('PEXPIRE', recent, rest)
  end
  if not is_last then
    redis.call('HSET', batch, 'young_until', string.format('%d', now + math.min(rest - 2 * kept, HOUR)))
  end
end
