-- Whether a pause, as it is stored, holds now. Needs: now.
local function holds(pause)
  local till = pause and cjson.decode(pause)['until_ms']
  return pause and (till == nil or till == cjson.null or till > now) or false
end
