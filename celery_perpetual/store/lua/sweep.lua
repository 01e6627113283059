-- Take the leases of a dead worker, at most so many at a time: of the one whose deadline has passed longest. Time in
-- which the store was away expires nothing. A worker that stops gives its own back in the same way, and then it counts
-- as no recovery.
--
-- KEYS[1] workers      zset    worker -> deadline
-- KEYS[2] leases       hash    task id -> lease
-- KEYS[3] states       hash    task id -> state
-- KEYS[4] copies       hash    task id -> message
-- KEYS[5] parked       hash    task id -> JSON
-- KEYS[6] again        zset    tasks to be sent again
-- KEYS[7] events       stream
-- KEYS[8] counters     hash    of the namespace
-- KEYS[9] seen         string  when somebody was last in contact
-- KEYS[10] hold        string  until when no lease expires
-- ARGV[1] ttl          ms      lease time
-- ARGV[2] gap          ms      longest silence in which the store counts as reachable
-- ARGV[3] prefix       text    of all keys
-- ARGV[4] maxlen       int     cap of the stream
-- ARGV[5] record_ttl   ms      how long a provisional record stays
-- ARGV[6] queue_ttl    ms      how long the queue stays
-- ARGV[7] most_now     int     leases to take in this call
-- ARGV[8] stopping     text    the worker that stops, '' = whoever is dead
-- returns {held until or 0, worker or '', leases taken, 1 if the worker holds nothing any more}
local workers, leases, states, copies, parked, again = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local events, counters, seen, hold = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local ttl, gap, prefix, maxlen = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local record_ttl, queue_ttl, most_now, stopping = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
-- include now
-- include rfc3339
-- include lease
-- include contact
-- include lose
local worker = stopping ~= '' and stopping or redis.call('ZRANGEBYSCORE', workers, '-inf', now, 'LIMIT', 0, 1)[1]
local held = prefix .. ':held:' .. (worker or '')
must_be(held, 'set')
local ids, found, stray = worker and redis.call('SRANDMEMBER', held, most_now) or {}, {}, {}
for i, text in ipairs(#ids > 0 and redis.call('HMGET', leases, unpack(ids)) or {}) do
  local lease = lease_of(text)
  if lease and lease.worker == worker then
    lease.id = ids[i]
    found[#found + 1] = lease
  else
    stray[#stray + 1] = ids[i]
  end
end
-- What is pushed to the front last comes first: the oldest.
table.sort(found, function(one, other) return one.started < other.started end)
local plan = plan_losses(worker or '', found, stopping == '')

local held_until = contact()
if held_until > now and stopping == '' then
  return {held_until, '', 0, 0}
elseif not worker then
  return {0, '', 0, 0}
end
if #stray > 0 then
  redis.call('SREM', held, unpack(stray))
end
local name = string.match(worker, '^[^#]*')
lose(plan, 'worker ' .. name .. (stopping == '' and ' is gone' or ' stopped'))
return {0, worker, #found, redis.call('EXISTS', held) == 0 and 1 or 0}
