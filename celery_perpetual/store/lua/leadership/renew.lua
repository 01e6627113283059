-- Keep the lead, if the key still holds exactly this owner and term.
--
-- KEY   leader       string  owner:term of the living leader
-- KEY   leader_info  string  JSON about the leader
-- KEY   handover     string  the standby that asks for the lead
-- ARG   mine         text    owner:term
-- ARG   ttl          text    ms: length of the lead without renewal
-- ARG   about        JSON    the new leader_info
-- returns {1 kept or 0 lost, owner that asks for the lead or '', now}
-- include now
if redis.call('GET', leader) ~= mine then
  return {0, '', now}
end
redis.call('PEXPIRE', leader, ttl)
redis.call('SET', leader_info, about, 'PX', ttl)
return {1, redis.call('GET', handover) or '', now}
