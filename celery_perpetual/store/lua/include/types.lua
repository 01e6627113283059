-- Redis rolls nothing back, so a key of a wrong type must fail a script before its first write.

-- Read a key for its type alone: every command fails where the key holds something else.
local probe = redis.call

-- The same for a key that nothing is known of but its name. Returns what it holds, or 'none'.
local function must_be(key, kind)
  local seen = redis.call('TYPE', key).ok
  if seen ~= 'none' and seen ~= kind then
    error({err = 'WRONGTYPE ' .. key .. ' holds a ' .. seen .. ', not a ' .. kind})
  end
  return seen
end
