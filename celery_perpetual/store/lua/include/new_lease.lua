-- The text of a lease: the local new_lease. Reads the locals lease_begins, has_state, granted (its token), now, lease_ends. See
-- lease.lua for the form. %d makes a text of a whole number at a seventh of what Lua takes otherwise.
local new_lease = lease_begins .. (has_state and '1|' or '0|') .. granted .. string.format('|%d', now) .. lease_ends
