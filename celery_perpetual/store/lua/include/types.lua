-- Redis rolls nothing back, so a key of a wrong type must fail a script before its first write.

-- Read a key for its type alone: every command fails where the key holds something else.
local probe = redis.call

-- Check a key that no fitting command can probe. Returns its type, or 'none'.
local function must_be(key, kind)
  local seen = redis.call('TYPE', key).ok
  if seen ~= 'none' and seen ~= kind then
    error({err = 'WRONGTYPE ' .. key .. ' holds a ' .. seen .. ', not a ' .. kind})
  end
  return seen
end
