-- Store the final record of a task, unless the first writes did, and publish it. Goes on from final_record.
if not is_plain then
  redis.call('SET', completion, final, 'PX', completion_ttl)
end
if redis.pcall('LPUSH', queue, final) ~= 1 then
  -- The provisional end of a parked task, or no list.
  redis.call('DEL', queue)
  redis.call('LPUSH', queue, final)
end
redis.call('PEXPIRE', queue, queue_ttl)
redis.call('PUBLISH', channel, final)
redis.call('PUBLISH', ends_channel, final)
