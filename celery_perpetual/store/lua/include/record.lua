-- The item key inside a record "1 {length of key or -} {length of options}\n{key}{options}{body}", or nil.
local function key_of(record)
  local length, at = string.match(record, '^1 (%S+) %d+\n()')
  if length ~= '-' then
    return string.sub(record, at, at + tonumber(length) - 1)
  end
end
