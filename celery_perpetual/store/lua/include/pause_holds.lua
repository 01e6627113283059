-- The end of a pause as it is stored, ms, or nil: it has none, or it was written by hand and cannot be read. A number that
-- is no time of a datetime is no end.
local function end_of(pause)
  local is_read, found = pcall(cjson.decode, pause)
  local till = is_read and type(found) == 'table' and found['until_ms']
  return type(till) == 'number' and till >= 0 and till <= 253402300799999 and till or nil
end

-- Whether a pause holds now. Needs: now.
local function holds(pause)
  local till = pause and end_of(pause)
  return pause and (not till or till > now) or false
end
