-- Go on with a poll that travelled to a worker: its time limit counts from here, and it belongs to no term, even if the
-- worker is faster than the beat that sent it. Should it never end, the unit is due when that limit is over and not
-- when the message would have expired. Sent twice it only counts again.
--
-- KEY   unit_hash  hash  the unit
-- KEY   due        zset  unit -> next poll
-- ARG   poll       text  poll id
-- ARG   unit       text  name of the unit
-- ARG   valid      ms    how long the claim lasts from now
-- returns {now, slot, trigger, cursor, in flight, attempt, last poll at, failures in a row as JSON}, or nothing when another poll has the claim
-- include now
-- include claimed
local facts = redis.call('HMGET', unit_hash, 'claim', 'claimed', 'cursor', 'inflight', 'attempt', 'polled', 'failures')
local slot, started, _, trigger = claimed_facts(facts[2])
if facts[1] ~= poll or not slot then  -- without its facts a claim is over
  return {}
end
redis.call('HSET', unit_hash, 'claimed', claimed_text(slot, started, now + valid, trigger, ''))
redis.call('ZADD', due, 'XX', 'LT', now + valid, unit)
return {now, slot, trigger, facts[3] or '', facts[4] or '0', facts[5] or '0', facts[6] or '', facts[7] or ''}
