-- The first writes of an end that counts: what they go to need not be read before. Where one fails, those before it are taken back,
-- and the script ends with that error. Reads the locals held, lease, item, is_plain, unit_hash, id, head,
-- final, completion, events.
local was_held, in_flight, replaced, failed_by = lease and redis.call('SREM', held, id) == 1
if item then
  in_flight = redis.pcall('HINCRBY', unit_hash, 'inflight', '-1')
  failed_by = type(in_flight) == 'table' and in_flight
end
if is_plain and not failed_by then
  replaced = redis.pcall('SET', completion, final, 'PX', completion_ttl, 'GET')
  failed_by = type(replaced) == 'table' and replaced
end
if head ~= '' and not failed_by then
  -- include add_to_stream
  failed_by = type(added) == 'table' and added
end
if failed_by then
  if was_held then
    redis.call('SADD', held, id)
  end
  if item and in_flight ~= failed_by then
    redis.call('HINCRBY', unit_hash, 'inflight', '1')
  end
  if is_plain and failed_by ~= in_flight and failed_by ~= replaced then
    redis.call('DEL', completion)
  end
  return failed_by
end
