-- Take units out of the clock: disabled, or unknown to the leader's code. Their cursors and outcomes stay.
--
-- KEY   leader  string  owner:term of the living leader
-- KEY   due     zset    unit -> next poll
-- ARG   mine    text    owner:term
-- ARGS  units   text    names
-- returns 1, or 0 when this caller does not lead
if redis.call('GET', leader) ~= mine then
  return 0
end
if units_at <= #ARGV then
  redis.call('ZREM', due, unpack(ARGV, units_at))
end
return 1
