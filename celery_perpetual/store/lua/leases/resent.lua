-- Push the message of a task that was lost, and strike it off the list, in one step: a repeat does nothing.
-- Where the broker is elsewhere it has the message already, and only the list is left.
--
-- KEYS[1] resend       zset    tasks to be sent again
-- KEYS[2] states       hash    task id -> state
-- KEYS[3] events       stream
-- KEYS[4] counters     hash    of the namespace
-- KEYS[5..] target     any     what the broker commands name
-- ARGV[1] id           text    task id
-- ARGV[2] since        ms      score of the entry that was read
-- ARGV[3] maxlen       int     cap of the stream
-- ARGV[4..] command    mixed   broker commands
-- returns 1 sent, 0 the entry is not there any more
local resend, states, events, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, since, maxlen = ARGV[1], ARGV[2], ARGV[3]
-- include now
-- include rfc3339
-- include lease
-- include recovered
-- include must_be
-- include push
targets_must_be_lists(5)
local score = redis.call('ZSCORE', resend, id)
if not score or tonumber(score) ~= tonumber(since) then
  return 0
end
redis.call('ZREM', resend, id)
local state = state_of(redis.call('HGET', states, id))
if state then
  recovered(id, state)
  state.flag, state.tag = 'run', ''
  redis.call('HSET', states, id, state_text(state))
end
push(4)
return 1
