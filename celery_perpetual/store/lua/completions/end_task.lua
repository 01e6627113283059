-- End a task that is no item of a batch: once, and in one step. Its record is stored, its lease and its message are gone,
-- and then the end is announced: a process that hears of it can read the record. A task of which a delivery
-- ended leaves a tombstone, so that a copy of its message does not run. A repeated call is known by the head of the record.
--
-- KEY   completion      string*  the record
-- KEY   queue           list*    one element to block on
-- KEY   channel         channel  of the task
-- KEY   ends_channel    channel  of the namespace
-- KEY   events          stream*
-- KEY   counters        hash*    of the namespace
-- KEY   leases          hash*    task id -> lease
-- KEY   states          hash*    task id -> state
-- KEY   copies          hash*    task id -> message
-- KEY   parked          hash*    task id -> JSON
-- KEY   resend          zset*    tasks to be resent
-- KEY   unacked         hash*    delivery tag -> message
-- KEY   unacked_index   zset*    delivery tag -> when it was received
-- ARG   id              text     task id
-- ARG   nonce           text     of the delivery that ended, '' = it had none, '*' = that of the lease, whichever it is
-- ARG   started         flag     1 = it ran under a lease, so without that lease its end is late
-- ARG   tag             text     of the message to acknowledge, '' = Celery acknowledges it
-- ARG   head            JSON     the record without its last fields and closing brace; '' = do not announce
-- ARG   result          text     key of Celery's result, '' = Celery stores it by itself
-- ARG   value           JSON     what Celery would store there
-- ARG   expires         text     s: how long that stays, 0 = for ever
-- ARG   tombstone_ttl   text     ms: how long a tombstone stays
-- ARG   completion_ttl  text     ms: how long the record stays
-- ARG   queue_ttl       text     ms: how long the queue stays
-- ARG   events_maxlen   text     cap of the stream
-- ARG   prefix          text     of all keys
-- ARG   tombs_prefix    text     what the keys of tombstones start with
-- returns {verdict, 0, 1 if the result is stored}; the verdict is 'first', 'late', 'unknown' (not announced, and nothing
-- was known of it), or why nothing at all was done: 'forbidden', 'unreadable'
-- include now
-- include rfc3339
-- include tenant_json
local record, is_plain = redis.call('GET', completion), false
-- include execution
local item, is_closed, poll
local is_known = record or lease or state or nonce ~= '' or tag ~= ''
if not is_known then
  -- include tombs
  is_known = has_tomb(1)
end
if is_known then
  -- include verdict
  if verdict then
    -- include drop_execution
    return {verdict, 0, 0}
  end
end
-- include final_record
if is_known then
  -- include end_execution
else
  -- Nearly always nothing is known of a task that needs no lease.
  if result ~= '' then
    redis.call('XLEN', events)  -- a stream of a wrong type has to fail this before the result is stored
    -- include celery_result
  end
  if head ~= '' then
    -- include add_to_stream
    if type(added) == 'table' then
      return added
    end
  end
end
if head ~= '' then
  -- include announce
end
return {head ~= '' and 'first' or 'unknown', 0, result ~= '' and 1 or 0}
