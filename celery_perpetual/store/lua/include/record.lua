-- The item key inside a record "1 {length of key or -} {length of options}\n{key}{options}{body}", or nil; and where its
-- options begin, and its body.
local function key_of(record)
  local length, options, at = string.match(record, '^1 (%S+) (%d+)\n()')
  local from = at + (tonumber(length) or 0)
  return length ~= '-' and string.sub(record, at, from - 1) or nil, from, from + options
end

-- The arguments of an item as JSON of at most 256 characters, '[[...], {...}]', for people; 'null' where they are longer,
-- kept out of listings, or not in plain JSON. Options and body begin there.
local function arguments_of(record, from, to)
  if #record - to >= 256 then
    return 'null'
  end
  if to > from then
    local differing = string.sub(record, from, to - 1)
    if string.find(differing, '"serializer"', 1, true) or string.find(differing, '"reprs"', 1, true) then
      return 'null'
    end
  end
  local body = string.sub(record, to)
  -- JSON has no such numbers, and a program's own serializer may have taken the name of JSON's.
  if string.find(body, 'NaN', 1, true) or string.find(body, 'Infinity', 1, true) or not pcall(cjson.decode, body) then
    return 'null'
  end
  return body
end
