-- Take the lead if it is free. Sent twice by one owner it answers the same term.
--
-- KEY   leader         string  owner:term of the living leader
-- KEY   leader_info    string  JSON about the leader
-- KEY   term           string  the last term
-- KEY   epoch          string  identity of this store
-- KEY   handover       string  the standby that asked for the lead
-- KEY   marks          zset    owner -> its last mark
-- KEY   events         stream
-- ARG   owner          text    unique per process
-- ARG   ttl            text    ms: length of the lead without renewal
-- ARG   about          JSON    the new leader_info
-- ARG   mark           text    the last mark that this owner was answered, 0 = none
-- ARG   epoch_known    text    the identity that this owner knows, '' = none
-- ARG   epoch_new      text    identity, if the store has none yet, or has gone back to an older state
-- ARG   events_maxlen  text    cap of the stream
-- returns {term of mine or 0, time left of the leader in ms, info of the leader, epoch, now, mark}
-- include now
-- include rfc3339
-- include leave_mark
-- Never below the clock: the number grows even if a fail-over lost the last one.
local next_term = math.max(tonumber(redis.call('GET', term) or '0') + 1, now)
local left_mark, identity = leave_mark()
local held = redis.call('GET', leader)
if held then
  local left = redis.call('PTTL', leader)
  if left > tonumber(ttl) then
    -- The store's clock was ahead when the lead was taken or renewed.
    left = tonumber(ttl)
    redis.call('PEXPIRE', leader, ttl)
    redis.call('PEXPIRE', leader_info, ttl)
  end
  local mine = string.sub(held, 1, #owner + 1) == owner .. ':'
  local number = mine and string.sub(held, #owner + 2) or '0'
  return {number, left, redis.call('GET', leader_info) or '', identity, now, left_mark}
end
-- A standby that asked for the lead goes first, so that the one which just gave it up does not take it back.
local waiting = redis.call('GET', handover)
if waiting and waiting ~= owner then
  if redis.call('PTTL', handover) > tonumber(ttl) then
    redis.call('PEXPIRE', handover, ttl)
  end
  return {'0', redis.call('PTTL', handover), '', identity, now, left_mark}
end
local number = string.format('%.0f', next_term)
redis.call('SET', term, number)
redis.call('SET', leader, owner .. ':' .. number, 'PX', ttl)
redis.call('SET', leader_info, about, 'PX', ttl)
redis.call('DEL', handover)
redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'leader', 'data',
  cjson.encode({change = 'elected', owner = owner, term = next_term, at = rfc3339(now)}))
return {number, tonumber(ttl), about, identity, now, left_mark}
