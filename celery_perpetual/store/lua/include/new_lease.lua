-- The text of a lease that is granted under this token. Reads the locals worker, nonce, nesting, retries, now, most, on_lost,
-- tag, task.
local function new_lease(granted)
  return string.format('%s|%s|%d|%d|%d|%.0f|%s|%s|%s|%s', worker, nonce, nesting, retries, granted, now, most, on_lost, tag,
    task)
end
