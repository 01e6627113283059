-- Give up the lead, if it is still this owner's.
--
-- KEY   leader         string  owner:term of the living leader
-- KEY   leader_info    string  JSON about the leader
-- KEY   events         stream
-- ARG   mine           text    owner:term
-- ARG   reason         text    why, for the event
-- ARG   events_maxlen  text    cap of the stream
-- returns 1 when this owner does not lead any more, for whatever reason
-- include now
-- include rfc3339
if redis.call('GET', leader) == mine then
  redis.call('DEL', leader, leader_info)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'leader', 'data',
    cjson.encode({change = 'resigned', leader = mine, reason = reason, at = rfc3339(now)}))
end
return 1
