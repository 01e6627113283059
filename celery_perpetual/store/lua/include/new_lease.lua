-- The text of a lease: the local new_lease. Reads the locals granted (its token), worker, nonce, nesting, retries, now, most,
-- on_lost, tag, task. See lease.lua for the form.
local new_lease = worker .. '|' .. nonce .. '|' .. nesting .. '|' .. retries .. '|' .. granted .. '|' .. now .. '|' .. most .. '|'
  .. on_lost .. '|' .. tag .. '|' .. task
