-- End an item of a batch: once, and in one step. Its record is stored, the item is closed (its key and its room are
-- free, its batch has counted it), its lease and its message are gone, and then the end is announced: a process that hears
-- of it can read the record. Of ids of this form that belong to no batch any more, only the record is stored.
-- A repeated call is known by the head of the record.
--
-- KEY   batch           hash*    the committed batch
-- KEY   chunk           list*    records
-- KEY   done            string*  bitmap of items that have ended
-- KEY   completion      string*  the record
-- KEY   queue           list*    one element to block on
-- KEY   channel         channel  of the task
-- KEY   ends_channel    channel  of the namespace
-- KEY   events          stream*
-- KEY   counters        hash*    of the namespace
-- KEY   batches         zset*    what follows ends and is not done
-- KEY   batch_channel   channel  of the batch
-- KEY   leases          hash*    task id -> lease
-- KEY   states          hash*    task id -> state
-- KEY   copies          hash*    task id -> message
-- KEY   parked          hash*    task id -> JSON
-- KEY   resend          zset*    tasks to be resent
-- KEY   unacked         hash*    delivery tag -> message
-- KEY   unacked_index   zset*    delivery tag -> when it was received
-- ARG   id              text     task id
-- ARG   poll            text     poll id
-- ARG   position        text     of the item within its chunk
-- ARG   nonce           text     of the delivery that ended, '' = it had none, '*' = that of the lease, whichever it is
-- ARG   hold            text     of its key after an end that is no success: 'back_off', 'until_allowed' or 'none'
-- ARG   started         flag     1 = it ran under a lease, so without that lease its end is late
-- ARG   tag             text     of the message to acknowledge, '' = Celery acknowledges it
-- ARG   status          text     how it ended
-- ARG   head            JSON     the record without its last fields and closing brace; '' = do not announce
-- ARG   result          text     key of Celery's result, '' = Celery stores it by itself
-- ARG   value           JSON     what Celery would store there
-- ARG   expires         text     s: how long that stays, 0 = for ever
-- ARG   tombstone_ttl   text     ms: how long the counters of a finished batch stay
-- ARG   completion_ttl  text     ms: how long the record stays
-- ARG   queue_ttl       text     ms: how long the queue stays
-- ARG   events_maxlen   text     cap of the stream
-- ARG   prefix          text     of all keys
-- ARG   tombs_prefix    text     what the keys of tombstones start with
-- returns {verdict, what follows and is to be done now or 0, 1 if the result is stored}; the verdict is 'first',
-- 'late', 'unknown' (of no batch, and not announced), or why nothing at all was done: 'forbidden', 'unreadable'
-- include now
-- include rfc3339
-- include record
-- include tenant_json
-- Nearly always an item is open and runs under its lease, so what only others need is made where it is needed.
-- include execution
-- include open_item
-- An open item whose lease this delivery has ends now for the first time: the record is not read, but written with GET.
local is_plain = item and lease and holder == nonce and head ~= ''
local record = not is_plain and redis.call('GET', completion)
-- include verdict
if verdict then
  local batch_waits = redis.call('ZSCORE', batches, poll)
  -- include drop_execution
  return {verdict, batch_waits and poll or 0, 0}
end
-- include final_record
-- include end_execution
local is_last = false
if item then
  -- include close_item
end
if head ~= '' then
  -- include announce
end
if is_last then
  redis.call('PUBLISH', batch_channel, string.format('{"poll_id": %s}', cjson.encode(poll)))
end
return {(item or head ~= '') and 'first' or 'unknown', item and item.follows or 0, result ~= '' and 1 or 0}
