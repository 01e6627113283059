-- Ask for the right to execute a task, before any code of its user runs. The nonce names the delivery that asks, so
-- that a repeated call answers the same. A message that is acknowledged before its task runs is struck off the broker's
-- books in this step, whatever the answer: by then it can be sent again from elsewhere, or is not needed.
--
-- KEYS[1] leases       hash*    task id -> lease
-- KEYS[2] held         set*     what this worker holds
-- KEYS[3] states       hash*    task id -> state
-- KEYS[4] copies       hash*    task id -> message, where the ledger cannot build it
-- KEYS[5] resend       zset*    tasks to be sent again
-- KEYS[6] completion   string*  the record of the task
-- KEYS[7] batch        hash*    its batch, if the id is one of ours
-- KEYS[8] chunk        list*    records
-- KEYS[9] done         string*  bitmap of items that have ended
-- KEYS[10] token        string*  the last token
-- KEYS[11] counters     hash*    of the namespace
-- KEYS[12] workers      zset*    worker -> deadline
-- KEYS[13] events       stream*
-- KEYS[14] unacked      hash*    delivery tag -> message: the broker's books
-- KEYS[15] index        zset*    delivery tag -> when it was received
-- ARGV[1] id           text    task id
-- ARGV[2] position     int     of the item within its chunk, -1 where the id is not ours
-- ARGV[3] worker       text    instance of the worker
-- ARGV[4] nonce        text    of this delivery
-- ARGV[5] nesting      int     how often the task has replaced itself
-- ARGV[6] retries      int     how often it was retried
-- ARGV[7] most         int     recoveries before it is parked
-- ARGV[8] on_lost      text    requeue, fail or park
-- ARGV[9] tag          text    delivery tag of the message
-- ARGV[10] task        text    name of the task
-- ARGV[11] copy        JSON    the message, '' where the ledger can build it
-- ARGV[12] ended       text    1 = an id that has ended does not run again
-- ARGV[13] tombs       text    what the keys of tombstones start with
-- ARGV[14] days        int     how many days of tombstones there are
-- ARGV[15] ttl         ms      lease time
-- ARGV[16] maxlen      int     cap of the stream
-- ARGV[17] strikes     text    1 = the message is to be struck off the broker's books
-- returns {verdict, token, recoveries}; the verdict is 'run', or why not: 'final', 'parked', 'old' or 'adopted'
local leases, held, states, copies, resend = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local completion, batch, chunk, done, token, counters = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local workers, events, ttl, maxlen = KEYS[12], KEYS[13], ARGV[15], ARGV[16]
local unacked, index, strikes = KEYS[14], KEYS[15], ARGV[17] == '1'
local id, position, worker, nonce, most, on_lost = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[7], ARGV[8]
local tag, task, copy, ended, tombs, days = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], tonumber(ARGV[14])
local nesting, retries = tonumber(ARGV[5]), tonumber(ARGV[6])
local mine = {nesting = nesting, retries = retries}
-- include now
-- include rfc3339
-- include lease
-- include recovered
-- include must_be
-- include acknowledge

local lease, state = lease_of(redis.call('HGET', leases, id)), state_of(redis.call('HGET', states, id))
local recoveries = state and state.recoveries or 0
if lease and lease.nonce == nonce then
  return {'run', lease.token, recoveries}
end

local function has_ended()
  local known = redis.call('GET', completion)
  if known and string.find(known, '"final": true', 1, true) then
    return true
  end
  if position >= 0 then
    if redis.call('LINDEX', chunk, position) then
      return redis.call('GETBIT', done, position) == 1
    end
    return redis.call('EXISTS', batch) == 1
  end
  local today = math.floor(now / 86400000)
  for day = today - days, today do
    if redis.call('SISMEMBER', tombs .. day, id) == 1 then
      return true
    end
  end
  return false
end

local function refuse(verdict)
  redis.call('HINCRBY', counters, 'dropped_' .. verdict, 1)
  if strikes then
    strike(unacked, index, tag)
  end
  return {verdict, '0', recoveries}
end

if ended == '1' and has_ended() then
  return refuse('final')
end
if state and state.flag == 'fail' then
  return refuse('final')  -- its end as lost is about to be told
end
if state and state.flag == 'parked' then
  if copy ~= '' then
    redis.call('HLEN', counters)
    redis.call('HSETNX', copies, id, copy)
  end
  return refuse('parked')
end
local newest = lease and (not state or order(state, lease) < 0) and lease or state
if newest and order(mine, newest) < 0 then
  return refuse('old')
end
if lease and order(mine, lease) == 0 then
  -- Whatever is needed to send it again is kept since the lease began, so this copy may be acknowledged.
  return refuse('adopted')
end

-- Whatever is written to is read first, so that a key of a wrong type fails this before its first write.
local former = lease and string.sub(held, 1, -#worker - 1) .. lease.worker
local late = state and state.flag == 'resend'
if former then
  must_be(former, 'set')
end
redis.call('SCARD', held)
local known = redis.call('ZSCORE', workers, worker)
if copy ~= '' or lease or state then
  redis.call('HLEN', copies)
end
if late then
  redis.call('ZCARD', resend)
  redis.call('HLEN', counters)
  redis.call('XLEN', events)
end

local granted = redis.call('INCR', token)
if not known then
  -- A worker that has not reported yet must be found by the sweep too.
  redis.call('ZADD', workers, string.format('%.0f', now + ttl), worker)
end
if former then
  redis.call('SREM', former, id)
end
redis.call('HSET', leases, id, string.format('%s|%s|%d|%d|%d|%.0f|%s|%s|%s|%s', worker, nonce, mine.nesting, mine.retries,
  granted, now, most, on_lost, tag, task))
redis.call('SADD', held, id)
if late then
  recovered(id, state)  -- by the broker, before anybody sent it
  redis.call('ZREM', resend, id)
end
if state then
  state.nesting, state.retries, state.flag = mine.nesting, mine.retries, 'run'
  redis.call('HSET', states, id, state_text(state))
end
if copy ~= '' then
  redis.call('HSET', copies, id, copy)
elseif lease or state then
  redis.call('HDEL', copies, id)
end
if strikes then
  strike(unacked, index, tag)
end
return {'run', tostring(granted), recoveries}
