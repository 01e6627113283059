-- The next step of a task whose execution ended without an end. Reads the locals of its script: leases, states, resend,
-- parked, events, counters, prefix, events_maxlen, completion_ttl, queue_ttl, now.
-- include types
-- include unit_name
-- include record
local at = rfc3339(now)

local function add_event(event, fields)
  fields.at = at
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', event, 'data', cjson.encode(fields))
end

-- The record of an item whose batch is known, or nil. A chunk has 500 records.
local function record_of(id, poll)
  local index = tonumber(string.sub(id, 29), 16)
  local record = redis.pcall('LINDEX', prefix .. ':i:' .. poll .. ':' .. math.floor(index / 500), index % 500)
  return type(record) == 'string' and record or nil
end

-- Park a task until an operator acts. A provisional completion wakes its waiters.
local function park(id, lease, recoveries, reason)
  redis.call('HSET', states, id, state_text({nesting = lease.nesting, retries = lease.retries, recoveries = recoveries,
    flag = 'parked', tag = lease.tag, task = lease.task}, now))
  local poll = string.sub(id, 1, 28) .. 'ffffffff'
  local is_item = redis.call('EXISTS', prefix .. ':p:' .. poll) == 1
  local item = is_item and record_of(id, poll)
  local key, from, to
  if item then
    key, from, to = key_of(item)
  end
  local unit = redis.pcall('HGET', prefix .. ':p:' .. poll, 'unit')
  redis.call('HSET', parked, id, cjson.encode({task_id = id, task = lease.task, worker = lease.worker,
    token = tonumber(lease.token), attempt = lease.retries + 1, recoveries = recoveries, started_at = lease.started,
    reason = reason, parked_at = now}))
  redis.call('ZADD', prefix .. ':parked:at', now, id)
  redis.call('ZREM', resend, id)
  local record = string.format('{"v": 1, "task_id": %s, "task": %s, "status": "needs_attention", "final": false,'
    .. ' "runtime": null, "worker": %s, "attempt": %d, "error": {"type": "TaskLost", "message": %s}, "meta": {},'
    .. ' "result": null, "finished_at": "%s", "poll_id": %s, "key": %s, "recoveries": %d, "tenant": %s,'
    .. ' "arguments": %s}',
    cjson.encode(id), cjson.encode(lease.task), cjson.encode(string.match(lease.worker, '^[^#]*')), lease.retries + 1,
    cjson.encode(reason), at,
    is_item and cjson.encode(poll) or 'null', key and cjson.encode(key) or 'null', recoveries,
    tenant_json(type(unit) == 'string' and unit), item and arguments_of(item, from, to) or 'null')
  local queue = prefix .. ':done:' .. id .. ':queue'
  redis.call('SET', prefix .. ':completion:' .. id, record, 'PX', completion_ttl)
  redis.call('DEL', queue)
  redis.call('LPUSH', queue, record)
  redis.call('PEXPIRE', queue, queue_ttl)
  redis.call('PUBLISH', prefix .. ':done:' .. id, record)
  redis.call('PUBLISH', prefix .. ':done', record)
  -- Not by way of a table: numbers would lose digits, and empty lists would become objects.
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'completion', 'data',
    string.sub(record, 1, -2) .. ', "at": "' .. at .. '"}')
  add_event('lease.parked', {task_id = id, task = lease.task, worker = lease.worker, recoveries = recoveries,
    reason = reason})
end

-- A lease behind worker and nonce: its order as the beginning of a state, its token, how often it may be lost and what
-- follows then, and tag and task as the end of a state.
local LOST = '^|(%d+|%d+|)%d|([^|]*)|[^|]*|(%d+)|([^|]*)|([^|]*|(.*))$'

-- Plan what becomes of executions of one worker: each is resent, ended as lost, or parked; of one whose successor is on
-- record it is the successor that is. Parking writes five times as
-- much, so it counts as five of the `most_now` executions that are dealt with now. Only reads, and meets every key that losing
-- them writes to, so that one of a wrong type fails the script before its first write. `flag` and `has_successor` are
-- about the last.
local function plan_losses(worker, ids, texts, counts, reason, most_now)
  local plan = {worker = worker, ids = {}, counts = counts, reason = reason, events = {}, parks = {}, written = {},
    listed = {}}
  if #ids == 0 then
    return plan
  end
  probe('SCARD', prefix .. ':held:' .. worker)
  probe('ZCARD', resend)
  local stored = redis.call('HMGET', states, unpack(ids))
  if counts then
    probe('HLEN', counters)
    probe('XLEN', events)
  end
  local written_at = stamp(now)
  local is_plain, names = #cjson.encode(ids) == #table.concat(ids) + 3 * #ids + 1, {}
  local end_of_event = string.format(', "worker": %s, "reason": %s, "at": "%s"}', cjson.encode(worker), cjson.encode(reason), at)
  for i, id in ipairs(ids) do
    if i + 4 * #plan.parks > most_now then
      break
    end
    local nonce_ends = string.find(texts[i], '|', #worker + 2, true)
    local order_text, token, most, on_lost, tagged, task = string.match(texts[i], LOST, nonce_ends)
    local stored_order, before, known, stored_tag
    if stored[i] then
      stored_order, before, known, stored_tag = string.match(stored[i], '^%d+|(%d+|%d+|)(%d+)|([^|]*)|([^|]*)|')
    end
    local recoveries = (counts and 1 or 0) + (before and tonumber(before) or 0)
    plan.has_successor = (known == 'wait' or known == 'delegated') and stored_order ~= order_text
    if plan.has_successor then
      order_text, tagged = stored_order, stored_tag .. '|' .. task
    end
    local flag = 'resend'
    plan.ids[i] = id
    if counts then
      names[task] = names[task] or cjson.encode(task)
      plan.events[i] = '{"task_id": ' .. (is_plain and '"' .. id .. '"' or cjson.encode(id)) .. ', "task": ' .. names[task]
        .. ', "token": ' .. token .. end_of_event
      if on_lost == 'fail' then
        flag = 'fail'
      elseif on_lost == 'park' or (on_lost == 'requeue' and recoveries > tonumber(most)) then
        flag = 'parked'
      end
    end
    plan.flag = flag
    if flag == 'parked' then
      must_be(prefix .. ':completion:' .. id, 'string')
      must_be(prefix .. ':done:' .. id .. ':queue', 'list')
      probe('HLEN', parked)
      probe('ZCARD', prefix .. ':parked:at')
      local lease = lease_of(texts[i])
      if plan.has_successor then
        local successor = state_of(stored[i])
        lease.nesting, lease.retries, lease.tag = successor.nesting, successor.retries, successor.tag
      end
      plan.parks[#plan.parks + 1] = {id = id, lease = lease, recoveries = recoveries}
    else
      local last = #plan.written
      plan.written[last + 1], plan.listed[last + 1] = id, now
      plan.written[last + 2] = written_at .. order_text .. recoveries .. '|' .. flag .. '|' .. tagged
      plan.listed[last + 2] = id
    end
  end
  return plan
end

-- Carry the plan out: drop the leases, and write what becomes of each task.
local function lose(plan)
  if #plan.ids == 0 then
    return
  end
  redis.call('HDEL', leases, unpack(plan.ids))
  redis.call('SREM', prefix .. ':held:' .. plan.worker, unpack(plan.ids))
  if plan.counts then
    redis.call('HINCRBY', counters, 'leases_lost', #plan.ids)
    for _, data in ipairs(plan.events) do
      redis.call('XADD', events, '*', 'event', 'lease.lost', 'data', data)
    end
    redis.call('XTRIM', events, 'MAXLEN', '~', events_maxlen)
  end
  for _, lost in ipairs(plan.parks) do
    park(lost.id, lost.lease, lost.recoveries, plan.reason)
  end
  if #plan.written > 0 then
    redis.call('HSET', states, unpack(plan.written))
    redis.call('ZADD', resend, unpack(plan.listed))
  end
end
