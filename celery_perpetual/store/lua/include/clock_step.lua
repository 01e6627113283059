-- A time in the past cannot lie ahead of the store's clock by more than this, in ms: if it does, the clock was ahead when
-- the time was written, or is behind now.
local AHEAD = 1000
local function is_ahead(time)
  return (tonumber(time) or 0) > now + AHEAD
end
