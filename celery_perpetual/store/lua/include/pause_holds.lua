-- The end of a pause as it is stored, ms, or nil: it has none, or it was written by hand and cannot be read.
local function end_of(pause)
  local is_read, found = pcall(cjson.decode, pause)
  return is_read and type(found) == 'table' and tonumber(found['until_ms']) or nil
end

-- Whether a pause holds now. Needs: now.
local function holds(pause)
  local till = pause and end_of(pause)
  return pause and (not till or till > now) or false
end
