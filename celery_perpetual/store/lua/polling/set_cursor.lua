-- Set or forget the cursor of a unit, unless a poll of it is open: that poll would overwrite it. A poll of which no end is
-- expected any more loses its claim, and the unit is due for that poll's slot again.
--
-- KEY   unit_hash      hash    the unit
-- KEY   cursors        set     units that have a cursor
-- KEY   leader         string  owner:term of the living leader
-- KEY   due            zset    unit -> next poll
-- KEY   events         stream
-- ARG   unit           text    name of the unit
-- ARG   cursor         JSON    the new cursor, '' = forget it
-- ARG   polls_prefix   text    what the keys of outcome lists start with
-- ARG   history        int     outcomes kept
-- ARG   ttl            text    ms: how long they are kept
-- ARG   events_maxlen  text    cap of the stream
-- returns 1 done, 0 a poll is open
-- include now
-- include rfc3339
-- include outcome
-- include types
-- include clock_step
-- include unit_name
-- include claimed
-- include other_claim
local poll = redis.call('HGET', unit_hash, 'claim')
if poll then
  must_be(polls_prefix .. unit, 'list')
  local claim = claim_of(unit_hash, poll)
  if may_end(claim) then
    return 0
  end
  end_other(unit, claim, claim.till > now and 'superseded' or 'abandoned', history)
  redis.call('HDEL', unit_hash, 'claim', 'claimed', 'waits')
  if claim.by ~= '' then
    redis.call('HDEL', unit_hash, 'slot')
    redis.call('ZADD', due, 'XX', 'LT', claim.slot, unit)
  end
end
if cursor == '' then
  redis.call('HDEL', unit_hash, 'cursor')
  redis.call('SREM', cursors, unit)
else
  redis.call('HSET', unit_hash, 'cursor', cursor)
  redis.call('SADD', cursors, unit)
end
return 1
