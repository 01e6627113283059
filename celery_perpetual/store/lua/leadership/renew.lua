-- Keep the lead, if the key still holds exactly this owner and term.
--
-- KEY   leader       string  owner:term of the living leader
-- KEY   leader_info  string  JSON about the leader
-- KEY   handover     string  the standby that asks for the lead
-- KEY   epoch        string  identity of this store
-- KEY   marks        zset    owner -> its last mark
-- ARG   mine         text    owner:term
-- ARG   ttl          text    ms: length of the lead without renewal
-- ARG   about        JSON    the new leader_info
-- ARG   owner        text    unique per process
-- ARG   mark         text    the last mark that this owner was answered
-- ARG   epoch_known  text    the identity that this owner knows
-- ARG   epoch_new    text    identity, if the store has gone back to an older state
-- returns {1 kept or 0 lost, owner that asks for the lead or '', now, mark}
-- include now
-- include leave_mark
if redis.call('GET', leader) ~= mine then
  return {0, '', now, mark}
end
local left_mark, _, is_older = leave_mark()
if is_older then
  return {0, '', now, left_mark}
end
redis.call('PEXPIRE', leader, ttl)
redis.call('SET', leader_info, about, 'PX', ttl)
return {1, redis.call('GET', handover) or '', now, left_mark}
