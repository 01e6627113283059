-- The text of a lease: the local new_lease. Reads the locals lease_begins, granted (its token), now, lease_ends. See lease.lua
-- for the form.
local new_lease = lease_begins .. granted .. '|' .. now .. lease_ends
