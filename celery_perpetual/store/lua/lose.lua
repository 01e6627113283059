-- What becomes of a task whose execution ended without an end. Reads the locals of its script: leases, states, copies,
-- again, parked, events, counters, prefix, maxlen, record_ttl, queue_ttl, now.
-- include typed
local at = rfc3339(now)

local function tell(event, fields)
  fields.at = at
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', event, 'data', cjson.encode(fields))
end

-- Out of the way until an operator acts: a provisional completion wakes whoever waits.
local function park(id, lease, recoveries, reason)
  redis.call('HSET', states, id, state_text({nesting = lease.nesting, retries = lease.retries, recoveries = recoveries,
    flag = 'parked', tag = lease.tag, task = lease.task}))
  redis.call('HSET', parked, id, cjson.encode({task_id = id, task = lease.task, worker = lease.worker,
    token = tonumber(lease.token), attempt = lease.retries + 1, recoveries = recoveries, started_at = lease.started,
    reason = reason, parked_at = now}))
  redis.call('ZREM', again, id)
  local poll = string.sub(id, 1, 28) .. 'ffffffff'
  local record = string.format('{"v": 1, "task_id": %s, "task": %s, "status": "needs_attention", "final": false,'
    .. ' "runtime": null, "worker": %s, "attempt": %d, "error": {"type": "TaskLost", "message": %s}, "meta": {},'
    .. ' "result": null, "finished_at": "%s", "poll_id": %s, "key": null, "recoveries": %d, "tenant": null}',
    cjson.encode(id), cjson.encode(lease.task), cjson.encode(string.match(lease.worker, '^[^#]*')), lease.retries + 1,
    cjson.encode(reason), at,
    redis.call('EXISTS', prefix .. ':p:' .. poll) == 1 and cjson.encode(poll) or 'null', recoveries)
  local queue = prefix .. ':done:' .. id .. ':queue'
  redis.call('SET', prefix .. ':completion:' .. id, record, 'PX', record_ttl)
  redis.call('DEL', queue)
  redis.call('LPUSH', queue, record)
  redis.call('PEXPIRE', queue, queue_ttl)
  redis.call('PUBLISH', prefix .. ':done:' .. id, record)
  redis.call('PUBLISH', prefix .. ':done', record)
  tell('completion', cjson.decode(record))
  tell('lease.parked', {task_id = id, task = lease.task, worker = lease.worker, recoveries = recoveries,
    reason = reason})
end

-- What becomes of executions of one worker: each is sent again, ended as lost, or parked. Only reads, and meets every key
-- that losing them writes to, so that one of a wrong type fails the script before its first write.
local function plan_losses(worker, found, counts)
  local ids = {}
  for i, lease in ipairs(found) do
    ids[i] = lease.id
  end
  must_be(prefix .. ':held:' .. worker, 'set')
  local known = #ids > 0 and redis.call('HMGET', states, unpack(ids)) or {}
  for i, lease in ipairs(found) do
    local state = state_of(known[i])
    lease.recoveries = (state and state.recoveries or 0) + (counts and 1 or 0)
    lease.flag = 'again'
    if counts and (lease.on_lost == 'park' or (lease.on_lost == 'requeue' and lease.recoveries > lease.most)) then
      lease.flag = 'parked'
      must_be(prefix .. ':completion:' .. lease.id, 'string')
      must_be(prefix .. ':done:' .. lease.id .. ':queue', 'list')
    elseif counts and lease.on_lost == 'fail' then
      lease.flag = 'fail'
    end
  end
  return {worker = worker, ids = ids, found = found, counts = counts}
end

-- Their leases are gone, and what becomes of them is written down.
local function lose(plan, reason)
  if #plan.ids == 0 then
    return
  end
  redis.call('HDEL', leases, unpack(plan.ids))
  redis.call('SREM', prefix .. ':held:' .. plan.worker, unpack(plan.ids))
  if plan.counts then
    redis.call('HINCRBY', counters, 'leases_lost', #plan.ids)
  end
  local told = string.format(', "worker": %s, "reason": %s, "at": "%s"}', cjson.encode(plan.worker), cjson.encode(reason), at)
  local written, listed, names = {}, {}, {}
  for _, lease in ipairs(plan.found) do
    if plan.counts then
      names[lease.task] = names[lease.task] or cjson.encode(lease.task)
      redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'lease.lost', 'data', '{"task_id": '
        .. (string.find(lease.id, '[%c"\\]') and cjson.encode(lease.id) or '"' .. lease.id .. '"') .. ', "task": ' .. names[lease.task] .. ', "token": ' .. lease.token .. told)
    end
    if lease.flag == 'parked' then
      park(lease.id, lease, lease.recoveries, reason)
    else
      written[#written + 1], listed[#listed + 1] = lease.id, now
      written[#written + 1], listed[#listed + 1] = state_text(lease), lease.id
    end
  end
  if #written > 0 then
    redis.call('HSET', states, unpack(written))
    redis.call('ZADD', again, unpack(listed))
  end
end
