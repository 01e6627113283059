-- Take the leases of a dead worker, at most so many at a time: of the one whose deadline has passed longest. Time in
-- which the store was away expires nothing. A worker that stops gives its own back in the same way, and then it counts
-- as no recovery.
--
-- KEYS[1] workers      zset*   worker -> deadline
-- KEYS[2] leases       hash*   task id -> lease
-- KEYS[3] states       hash*   task id -> state
-- KEYS[4] parked       hash*   task id -> JSON
-- KEYS[5] resend       zset*   tasks to be sent again
-- KEYS[6] events       stream*
-- KEYS[7] counters     hash*   of the namespace
-- KEYS[8] seen         string* when somebody was last in contact
-- KEYS[9] hold         string* until when no lease expires
-- ARGV[1] ttl          ms      lease time
-- ARGV[2] gap          ms      longest silence in which the store counts as reachable
-- ARGV[3] prefix       text    of all keys
-- ARGV[4] maxlen       int     cap of the stream
-- ARGV[5] record_ttl   ms      how long a provisional record stays
-- ARGV[6] queue_ttl    ms      how long the queue stays
-- ARGV[7] most_now     int     leases to take in this call; one that is parked counts as five
-- ARGV[8] stopping     text    the worker that stops, '' = whoever is dead
-- returns {held until or 0, worker or '', leases taken, 1 if the worker holds nothing any more}
local workers, leases, states, parked, resend = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, counters, seen, hold = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local ttl, gap, prefix, maxlen = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local record_ttl, queue_ttl, most_now, stopping = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
-- include now
-- include rfc3339
-- include lease
-- include contact
-- include lose
local worker = stopping ~= '' and stopping or redis.call('ZRANGEBYSCORE', workers, '-inf', now, 'LIMIT', 0, 1)[1]
local held = prefix .. ':held:' .. (worker or '')
local all = worker and redis.call('SRANDMEMBER', held, most_now) or {}
local mine, ids, texts, stray = (worker or '') .. '|', {}, {}, {}
for i, text in ipairs(#all > 0 and redis.call('HMGET', leases, unpack(all)) or {}) do
  if text and string.sub(text, 1, #mine) == mine then
    ids[#ids + 1], texts[#texts + 1] = all[i], text
  else
    stray[#stray + 1] = all[i]
  end
end
local reason = 'worker ' .. string.match(mine, '^[^#|]*') .. (stopping == '' and ' is gone' or ' stopped')
local plan = plan_losses(worker or '', ids, texts, stopping == '', reason, most_now)

local held_until = contact()
if held_until > now and stopping == '' then
  return {held_until, '', 0, 0}
elseif not worker then
  return {0, '', 0, 0}
end
if #stray > 0 then
  redis.call('SREM', held, unpack(stray))
end
lose(plan)
return {0, worker, #plan.ids, redis.call('EXISTS', held) == 0 and 1 or 0}
