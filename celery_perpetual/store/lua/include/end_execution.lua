-- An end that counts: store Celery's result, drop the lease, the state and the copy, and add the end to the stream. Whatever
-- may hold something else is met before the first write, but for what the first writes go to. Goes on from verdict and
-- final_record.

-- The ledger has the first message of an item, so of that there is no copy.
local has_copy = state or (lease and (not item or nesting ~= '0' or retries ~= '0'))
local is_parked, waits = state and state.flag == 'parked', state and (state.flag == 'resend' or state.flag == 'fail')
local tomb = not item and (lease or nonce ~= '') and tombs_prefix .. (now - now % 86400000) / 86400000
local is_new_tomb = tomb and redis.call('SCARD', tomb) == 0
-- The network may bring a copy of the call by which the delivery asked for its lease only now. It is to be known for the
-- hours that this can take; a tombstone does not keep the next use of the id from running.
local ended_by = holder or nonce
local ended = tomb and ended_by ~= '*' and tombs_prefix .. 'of:' .. (now - now % 3600000) / 3600000
local is_new_hour = ended and redis.call('SCARD', ended) == 0
local held, unit_hash = lease and prefix .. ':held:' .. worker, item and prefix .. ':u:' .. item.unit
if has_copy then
  redis.call('HLEN', copies)
end
if is_parked then
  redis.call('HLEN', parked)
  redis.call('ZCARD', prefix .. ':parked:at')
elseif waits then
  redis.call('ZCARD', resend)
end
if result ~= '' then
  -- It is stored before anything is written.
  if lease then
    redis.call('SCARD', held)
  end
  if item then
    redis.call('HEXISTS', unit_hash, 'inflight')
  end
  if is_plain then
    redis.call('GET', completion)
  end
  if head ~= '' then
    redis.call('XLEN', events)
  end
  -- include celery_result
end
-- include first_writes
if lease then
  redis.call('HDEL', leases, id)
end
if state then
  redis.call('HDEL', states, id)
end
if has_copy then
  redis.call('HDEL', copies, id)
end
if is_parked then
  redis.call('HDEL', parked, id)
  redis.call('ZREM', prefix .. ':parked:at', id)
elseif waits then
  redis.call('ZREM', resend, id)
end
if tomb then
  redis.call('SADD', tomb, id)
  if is_new_tomb then
    redis.call('PEXPIRE', tomb, tombstone_ttl + 86400000)
  end
end
if ended then
  redis.call('SADD', ended, ended_by)
  if is_new_hour then
    redis.call('PEXPIRE', ended, 2 * 3600000)
  end
end
if tag ~= '' then
  -- include acknowledge
  acknowledge(unacked, unacked_index, tag)
end
