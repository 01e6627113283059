-- Store the final record of a task and publish it. "item" is its open item in the ledger, "state" is its state as a table.
-- Needs rfc3339, tenant_json.
local at = rfc3339(now)
local fields = head .. ', "finished_at": "' .. at .. '", "poll_id": ' .. (item and '"' .. poll .. '"' or 'null')
  .. ', "key": ' .. (item and item.key and cjson.encode(item.key) or 'null') .. ', "recoveries": '
  .. (state and state.recoveries or 0) .. ', "tenant": ' .. tenant_json(item and item.unit)
  .. ', "arguments": ' .. (item and item.arguments or 'null')
local final = fields .. '}'
-- The first write of a plain end, so that a stream of a wrong type fails it before anything is written.
redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'completion', 'data', fields .. ', "at": "' .. at .. '"}')
redis.call('SET', completion, final, 'PX', completion_ttl)
if redis.pcall('LPUSH', queue, final) ~= 1 then
  -- The provisional end of a parked task, or no list.
  redis.call('DEL', queue)
  redis.call('LPUSH', queue, final)
end
redis.call('PEXPIRE', queue, queue_ttl)
redis.call('PUBLISH', channel, final)
redis.call('PUBLISH', ends_channel, final)
