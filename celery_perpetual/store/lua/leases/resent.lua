-- Push the message of a task that was lost, and take the task off the list, in one step: a repeat does nothing. A message
-- that the broker had among the unacked is acknowledged with it, or it would seem to be that of yet another dead worker.
-- Where the broker is elsewhere it has the message already, and only the list is left.
--
-- KEY   resend         zset    tasks to be resent
-- KEY   states         hash    task id -> state
-- KEY   events         stream
-- KEY   counters       hash    of the namespace
-- KEY   unacked        hash*   delivery tag -> message
-- KEY   unacked_index  zset*   delivery tag -> when it was received
-- KEYS  targets        list    what the broker commands name
-- ARG   id             text    task id
-- ARG   since          text    ms: score of the entry that was read
-- ARG   flag           text    what the task is from now on: run, or delegated where the message has another id
-- ARG   tag            text    of the message to acknowledge, '' = none
-- ARG   events_maxlen  text    cap of the stream
-- ARGS  commands       mixed   broker commands
-- returns 1 sent, 0 the entry is not there any more
-- include now
-- include rfc3339
-- include lease
-- include add_recovery
-- include push
-- include acknowledge
local score = redis.call('ZSCORE', resend, id)
if not score or tonumber(score) ~= tonumber(since) then
  return 0
end
redis.call('ZREM', resend, id)
local state = state_of(redis.call('HGET', states, id))
if state then
  add_recovery(id, state)
  state.flag, state.tag = flag, ''
  redis.call('HSET', states, id, state_text(state, now))
end
push(commands_at)
if tag ~= '' then
  acknowledge(unacked, unacked_index, tag)
end
return 1
