-- Keep the lead, if the key still holds exactly this owner and term.
--
-- KEYS[1] leader    string  owner:term of the living leader
-- KEYS[2] info      string  JSON about the leader
-- KEYS[3] handover  string  the standby that asks for the lead
-- ARGV[1] mine      text    owner:term
-- ARGV[2] ttl       ms      length of the lead without renewal
-- ARGV[3] about     JSON    what KEYS[2] is to say
-- returns {1 kept or 0 lost, owner that asks for the lead or '', now}
local leader, info, handover = KEYS[1], KEYS[2], KEYS[3]
local mine, ttl, about = ARGV[1], ARGV[2], ARGV[3]
-- include now
if redis.call('GET', leader) ~= mine then
  return {0, '', now}
end
redis.call('PEXPIRE', leader, ttl)
redis.call('SET', info, about, 'PX', ttl)
return {1, redis.call('GET', handover) or '', now}
