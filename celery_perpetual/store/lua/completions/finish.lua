-- Settle the end of one task, in one step and once: the final record is written and never changed, the ledger's item
-- is closed (key and room free, batch counted), and then the end is announced: queue, publish, stream. Whoever hears of
-- it can read the record. An end that comes after the first one is counted as late and changes nothing else.
-- The head of the record tells a repeated call; the nonce of the delivery tells an execution that has lost its lease:
-- its end is late, whatever it says.
--
-- KEY   batch           hash*    the committed batch, if the id is one of ours
-- KEY   chunk           list*    records
-- KEY   done            string*  bitmap of items that have ended
-- KEY   completion      string*  the record
-- KEY   queue           list*    one element for whoever blocks on it
-- KEY   channel         channel  of the task
-- KEY   ends_channel    channel  of the namespace
-- KEY   events          stream*
-- KEY   counters        hash*    of the namespace
-- KEY   batches         zset*    finished batches whose on_batch_done is not sent
-- KEY   batch_channel   channel  of the batch
-- KEY   leases          hash*    task id -> lease
-- KEY   states          hash*    task id -> state
-- KEY   copies          hash*    task id -> message
-- KEY   parked          hash*    task id -> JSON
-- KEY   resend          zset*    tasks to be sent again
-- KEY   unacked         hash*    delivery tag -> message: the broker's books
-- KEY   unacked_index   zset*    delivery tag -> when it was received
-- ARG   id              text     task id
-- ARG   position        int      of the item within its chunk, -1 where the id is not ours
-- ARG   status          text     how it ended
-- ARG   head            JSON     the record without its last fields and closing brace; '' = do not announce
-- ARG   tombstone_ttl   text     ms: how long the counters of a finished batch stay
-- ARG   completion_ttl  text     ms: how long the record stays
-- ARG   queue_ttl       text     ms: how long the queue stays
-- ARG   events_maxlen   text     cap of the stream
-- ARG   prefix          text     of all keys
-- ARG   poll            text     poll id, '' where the id is not ours
-- ARG   nonce           text     of the delivery that ended, '' = it had none, '*' = whatever holds the lease
-- ARG   started         flag     1 = it ran under a lease, so without that lease its end is late
-- ARG   tombs_prefix    text     what the keys of tombstones start with
-- ARG   tag             text     of the message to strike off the broker's books, '' = Celery acknowledges it
-- ARG   result          text     key of Celery's result, '' = Celery stores it by itself
-- ARG   value           JSON     what Celery would store there
-- ARG   expires         text     s: how long that stays, 0 = for ever
-- returns {1 first end, 2 late, 0 nothing known and nothing announced, 3 nothing is done because the key or the channel
-- of the result is forbidden, 4 nothing is done because what is there cannot be read; 1 if the batch's message is to be
-- sent now; 1 if the result is stored}
-- include now
-- include rfc3339
local known = redis.call('GET', completion)
local lease, state_known = redis.call('HGET', leases, id), redis.call('HGET', states, id)
local today = math.floor(now / 86400000)
local item, finished, state = nil, false, nil

-- Celery's own result, as Celery stores it: a success that is there stays. Returns why Celery has to do it, if it has to.
-- Published first, as whoever may not publish must not store either.
local is_stored
local obstacle = result ~= '' and function()
  local there = redis.pcall('GET', result)
  if type(there) == 'table' then
    return 3
  end
  local is_read, meta = pcall(cjson.decode, there or '{}')
  if not is_read or type(meta) ~= 'table' or (there and #there > 65536) then
    return 4
  end
  if meta.status ~= 'SUCCESS' then
    if type(redis.pcall('PUBLISH', result, value)) ~= 'number' then
      return 3
    end
    local reply = expires == '0' and redis.pcall('SET', result, value) or redis.pcall('SETEX', result, expires, value)
    if reply.err then
      -- What the server refuses to everybody for now is no matter of this key.
      for _, code in ipairs({'OOM', 'MISCONF', 'READONLY', 'NOREPLICAS'}) do
        if reply.err:find(code .. ' ', 1, true) then
          redis.call('SET', result, value)
        end
      end
      return 3
    end
  end
  is_stored = 1
end

-- Nearly always nothing is known of a task that needs no lease: then all that follows need not even be defined.
local is_plain = position < 0 and nonce == '' and tag == '' and not (known or lease or state_known)
  and redis.call('SISMEMBER', tombs_prefix .. today, id) == 0 and redis.call('SISMEMBER', tombs_prefix .. today - 1, id) == 0
if not is_plain then
  -- include must_be
  -- include lease
  -- include acknowledge

  -- Whether the batch is finished and nobody has sent its message yet: whoever repeats a call may have to.
  local function unsent()
    return poll ~= '' and redis.call('ZSCORE', batches, poll) and 1 or 0
  end

  state = state_of(state_known)
  local worker, holder, nesting, retries
  if lease then
    worker, holder, nesting, retries = holder_of(lease)
  end

  -- An end that changes nothing ends its execution all the same: its lease goes, which a task has that is sent again under
  -- an id that has ended, and its message. But kombu puts a message back under its tag, so whoever holds the lease may
  -- have it by this very message.
  local function no_more(verdict, is_late)
    local reply, is_mine = {verdict, unsent()}, lease and holder == nonce
    if is_mine then
      redis.call('HLEN', copies)
      redis.call('SCARD', prefix .. ':held:' .. worker)
    end
    if is_late then
      redis.call('HINCRBY', counters, 'late', 1)
    end
    if is_mine then
      redis.call('SREM', prefix .. ':held:' .. worker, id)
      redis.call('HDEL', leases, id)
      redis.call('HDEL', states, id)
      redis.call('HDEL', copies, id)
    end
    if tag ~= '' and (is_mine or not (lease and lease_of(lease).tag == tag)) then
      strike(unacked, unacked_index, tag)
    end
    return reply
  end

  local function late()
    return no_more(2, true)
  end

  if known and head ~= '' and string.sub(known, 1, #head) == head then
    return {1, unsent()}
  end
  if known and string.find(known, '"final": true', 1, true) then
    return late()
  end
  if lease and nonce ~= '*' and holder ~= nonce then
    return late()
  end
  local over, close = false, nil
  if position >= 0 then
    -- include record
    -- include close_item
    item, over = open_item()
    close = settle
  end
  if over then
    -- A silent end leaves no record by which a repeated call is known.
    return head == '' and no_more(1) or late()
  end
  if not lease and started and (item or state) then
    return late()
  end
  local tomb, buried, fresh
  if not item then
    tomb = tombs_prefix .. today
    if not lease and not state and (redis.call('SISMEMBER', tomb, id) == 1
      or redis.call('SISMEMBER', tombs_prefix .. today - 1, id) == 1) then
      return head == '' and no_more(0) or late()
    end
    buried = lease or nonce == '*'
    fresh = buried and must_be(tomb, 'set') == 'none'
  end
  -- The ledger has the first message of an item, so of that there is no copy.
  local copied = state or (lease and (not item or nesting ~= '0' or retries ~= '0'))
  if copied then
    redis.call('HLEN', copies)
  end
  local parks, waits = false, false
  if state then
    parks, waits = state.flag == 'parked', state.flag == 'resend' or state.flag == 'fail'
    if parks then
      redis.call('HLEN', parked)
    elseif waits then
      redis.call('ZCARD', resend)
    end
  end
  if head ~= '' then
    redis.call('XLEN', events)
  end
  if result ~= '' then
    if lease then
      redis.call('SCARD', prefix .. ':held:' .. worker)
    end
    local why = obstacle()
    if why then
      return {why, 0}
    end
  end

  if lease then
    redis.call('SREM', prefix .. ':held:' .. worker, id)
    redis.call('HDEL', leases, id)
  end
  if state then
    redis.call('HDEL', states, id)
  end
  if copied then
    redis.call('HDEL', copies, id)
  end
  if parks then
    redis.call('HDEL', parked, id)
  elseif waits then
    redis.call('ZREM', resend, id)
  end
  if buried then
    redis.call('SADD', tomb, id)
    if fresh then
      redis.call('PEXPIRE', tomb, tombstone_ttl + 86400000)
    end
  end
  finished = item and close(item)
  if tag ~= '' then
    strike(unacked, unacked_index, tag)
  end
elseif result ~= '' then
  redis.call('XLEN', events)
  local why = obstacle()
  if why then
    return {why, 0}
  end
end

if head ~= '' then
  local at = rfc3339(now)
  local record = head .. ', "finished_at": "' .. at .. '", "poll_id": ' .. (item and '"' .. poll .. '"' or 'null')
    .. ', "key": ' .. (item and item.key and cjson.encode(item.key) or 'null') .. ', "recoveries": '
    .. (state and state.recoveries or 0) .. ', "tenant": null'
  local told = record .. '}'
  -- The first write of a plain end, so that a stream of a wrong type fails it before anything is written.
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'completion', 'data', record .. ', "at": "' .. at .. '"}')
  redis.call('SET', completion, told, 'PX', completion_ttl)
  if redis.pcall('LPUSH', queue, told) ~= 1 then
    -- The provisional end of a parked task, or no list.
    redis.call('DEL', queue)
    redis.call('LPUSH', queue, told)
  end
  redis.call('PEXPIRE', queue, queue_ttl)
  redis.call('PUBLISH', channel, told)
  redis.call('PUBLISH', ends_channel, told)
end
if finished then
  redis.call('PUBLISH', batch_channel, string.format('{"poll_id": %s}', cjson.encode(poll)))
end
return {(item or head ~= '') and 1 or 0, finished and item.on_done and 1 or 0, is_stored}
