-- What has happened cannot lie ahead of the store's clock by more than this, in ms: if it does, the clock was ahead when
-- it was written down, or is behind now.
local AHEAD = 1000
local function is_ahead(time)
  return (tonumber(time) or 0) > now + AHEAD
end
