-- Parts of the texts of a lease that is asked for; most callers need none of them. Reads the locals lease_begins, lease_ends.

-- Nonce, nesting and retries.
local function asked_order()
  return string.match(lease_begins, '^[^|]*|([^|]*)|(%d+)|(%d+)|$')
end

-- The delivery tag.
local function asked_tag()
  return string.match(lease_ends, '^|%d+|[^|]*|([^|]*)|')
end
