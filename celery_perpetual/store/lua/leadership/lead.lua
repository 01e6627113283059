-- Take the lead if nobody has it. Sent twice by one owner it answers the same term.
--
-- KEYS[1] leader    string  owner:term of the living leader
-- KEYS[2] info      string  JSON about the leader
-- KEYS[3] term      string  the last term
-- KEYS[4] epoch     string  identity of this store
-- KEYS[5] handover  string  the standby that asked for the lead
-- KEYS[6] events    stream
-- ARGV[1] owner     text    unique per process
-- ARGV[2] ttl       ms      length of the lead without renewal
-- ARGV[3] about     JSON    what KEYS[2] is to say
-- ARGV[4] epoch_new text    identity, if the store has none yet
-- ARGV[5] maxlen    int     cap of the stream
-- returns {term of mine or 0, time left of the leader in ms, info of the leader, epoch, now}
local leader, info, term, epoch, handover, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local owner, ttl, about, epoch_new, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include now
-- include rfc3339
-- Never below the clock: the number grows even if a fail-over lost the last one.
local next_term = math.max(tonumber(redis.call('GET', term) or '0') + 1, now)
redis.call('SET', epoch, epoch_new, 'NX')
local identity = redis.call('GET', epoch)
local held = redis.call('GET', leader)
if held then
  local left = redis.call('PTTL', leader)
  local mine = string.sub(held, 1, #owner + 1) == owner .. ':'
  local number = mine and string.sub(held, #owner + 2) or '0'
  return {number, left, redis.call('GET', info) or '', identity, now}
end
-- A standby that asked for the lead goes first, so that the one which just gave it up does not take it back.
local waiting = redis.call('GET', handover)
if waiting and waiting ~= owner then
  return {'0', redis.call('PTTL', handover), '', identity, now}
end
local number = string.format('%.0f', next_term)
redis.call('SET', term, number)
redis.call('SET', leader, owner .. ':' .. number, 'PX', ttl)
redis.call('SET', info, about, 'PX', ttl)
redis.call('DEL', handover)
redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'leader', 'data',
  cjson.encode({change = 'elected', owner = owner, term = next_term, at = rfc3339(now)}))
return {number, tonumber(ttl), about, identity, now}
