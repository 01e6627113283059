-- What becomes of a task whose execution ended without an end. Reads the locals of its script: leases, states, copies,
-- again, parked, events, counters, prefix, maxlen, record_ttl, queue_ttl, now.
-- include typed
-- Meets every key that `lose` builds itself; to be called before the script's first write.
local function check_lost(id, worker)
  must_be(prefix .. ':held:' .. worker, 'set')
  must_be(prefix .. ':completion:' .. id, 'string')
  must_be(prefix .. ':done:' .. id .. ':queue', 'list')
end

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

-- The lease is gone; the task is sent again, ended as lost, or parked. Answers which: 'again', 'fail' or 'parked'.
local function lose(id, lease, counts, reason)
  redis.call('HDEL', leases, id)
  redis.call('SREM', prefix .. ':held:' .. lease.worker, id)
  local state = state_of(redis.call('HGET', states, id))
  local recoveries = state and state.recoveries or 0
  if counts then
    recoveries = recoveries + 1
    redis.call('HINCRBY', counters, 'leases_lost', 1)
    tell('lease.lost', {task_id = id, task = lease.task, worker = lease.worker, token = tonumber(lease.token),
      reason = reason})
    if lease.on_lost == 'park' or (lease.on_lost == 'requeue' and recoveries > lease.most) then
      park(id, lease, recoveries, reason)
      return 'parked'
    end
  end
  local flag = counts and lease.on_lost == 'fail' and 'fail' or 'again'
  redis.call('HSET', states, id, state_text({nesting = lease.nesting, retries = lease.retries, recoveries = recoveries,
    flag = flag, tag = lease.tag, task = lease.task}))
  redis.call('ZADD', again, now, id)
  return flag
end
