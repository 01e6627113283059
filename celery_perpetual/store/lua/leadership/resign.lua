-- Give up the lead, if it is still this owner's, and announce it.
--
-- KEYS[1] leader  string  owner:term of the living leader
-- KEYS[2] info    string  JSON about the leader
-- KEYS[3] events  stream
-- ARGV[1] mine    text    owner:term
-- ARGV[2] reason  text    why, for the event
-- ARGV[3] maxlen  int     cap of the stream
-- returns 1 when this owner does not lead any more, whoever ended it
local leader, info, events = KEYS[1], KEYS[2], KEYS[3]
local mine, reason, maxlen = ARGV[1], ARGV[2], ARGV[3]
-- include now
-- include rfc3339
if redis.call('GET', leader) == mine then
  redis.call('DEL', leader, info)
  redis.call('PUBLISH', leader, 'free')
  redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'event', 'leader', 'data',
    cjson.encode({change = 'resigned', leader = mine, reason = reason, at = rfc3339(now)}))
end
return 1
