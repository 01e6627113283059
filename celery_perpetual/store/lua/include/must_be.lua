-- For keys that a script builds itself: fail before the first write where one holds something else. Returns what it
-- holds, or 'none'.
local function must_be(key, kind)
  local seen = redis.call('TYPE', key).ok
  if seen ~= 'none' and seen ~= kind then
    error({err = 'WRONGTYPE ' .. key .. ' holds a ' .. seen .. ', not a ' .. kind})
  end
  return seen
end
