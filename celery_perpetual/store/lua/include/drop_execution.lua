-- An end that does not count still ends its execution: the lease of this execution goes, and its message. (A task that is
-- sent under an id that has ended has such a lease.) But kombu puts a message back under its tag, so the holder of another
-- lease may have this very message. Goes on from verdict.
local is_mine = lease and holder == nonce
if is_mine then
  redis.call('HLEN', copies)
  redis.call('SCARD', prefix .. ':held:' .. worker)
end
if verdict == 'late' then
  redis.call('HINCRBY', counters, 'late', 1)
end
if is_mine then
  redis.call('SREM', prefix .. ':held:' .. worker, id)
  redis.call('HDEL', leases, id)
  if state then
    redis.call('HDEL', states, id)
  end
  redis.call('HDEL', copies, id)
end
if tag ~= '' then
  -- include lease
  -- include acknowledge
  if is_mine or not (lease and lease_of(lease).tag == tag) then
    acknowledge(unacked, unacked_index, tag)
  end
end
