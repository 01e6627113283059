-- Take the leases of a dead worker, at most so many at a time: of the one whose deadline has passed longest, but for those
-- that are passed over. Time in which the store was away expires nothing. A worker that stops gives its leases back in the
-- same way, and then they count as no recovery.
--
-- KEY   workers         zset*    worker -> deadline
-- KEY   leases          hash*    task id -> lease
-- KEY   states          hash*    task id -> state
-- KEY   parked          hash*    task id -> JSON
-- KEY   resend          zset*    tasks to be resent
-- KEY   events          stream*
-- KEY   counters        hash*    of the namespace
-- KEY   seen            string*  when a process was last in contact
-- KEY   hold            string*  until when no lease expires
-- ARG   lease_ttl       ms       lease time
-- ARG   gap             ms       longest silence in which the store counts as reachable
-- ARG   reporting       ms       how long every worker needs to report to a store that was away
-- ARG   prefix          text     of all keys
-- ARG   events_maxlen   text     cap of the stream
-- ARG   completion_ttl  text     ms: how long a provisional record stays
-- ARG   queue_ttl       text     ms: how long the queue stays
-- ARG   most_now        int      leases to take in this call; one that is parked counts as five
-- ARG   passed_over     int      how many dead workers to pass over
-- ARG   stopping        text     the worker that stops, '' = one that is dead
-- returns {held until or 0, worker or '', leases taken, 1 if the worker holds nothing any more}, and of each parked task
-- its id, name and recoveries
-- include now
-- include rfc3339
-- include lease
-- include contact
-- include lose
local worker = stopping ~= '' and stopping or redis.call('ZRANGEBYSCORE', workers, '-inf', now, 'LIMIT', passed_over, 1)[1]
local held = prefix .. ':held:' .. (worker or '')
local all = worker and redis.call('SRANDMEMBER', held, most_now) or {}
local of_worker, ids, texts, stray = (worker or '') .. '|', {}, {}, {}
for i, text in ipairs(#all > 0 and redis.call('HMGET', leases, unpack(all)) or {}) do
  if text and string.sub(text, 1, #of_worker) == of_worker then
    ids[#ids + 1], texts[#texts + 1] = all[i], text
  else
    stray[#stray + 1] = all[i]
  end
end
local reason = 'worker ' .. string.match(of_worker, '^[^#|]*') .. (stopping == '' and ' is gone' or ' stopped')
local plan = plan_losses(worker or '', ids, texts, stopping == '', reason, most_now)

-- Reports from a time in which the store's clock was ahead; from now on they count as reports of now.
local ahead = redis.call('ZRANGEBYSCORE', workers, now + lease_ttl + 1000, '+inf', 'LIMIT', 0, 100)

local held_until = contact()
for _, early in ipairs(ahead) do
  redis.call('ZADD', workers, now + lease_ttl, early)
end
if held_until > now and stopping == '' then
  return {held_until, '', 0, 0}
elseif not worker then
  return {0, '', 0, 0}
end
if #stray > 0 then
  redis.call('SREM', held, unpack(stray))
end
lose(plan)
local answer = {0, worker, #plan.ids, redis.call('EXISTS', held) == 0 and 1 or 0}
for _, lost in ipairs(plan.parks) do
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = lost.id, lost.lease.task, lost.recoveries
end
return answer
