-- Note how far the starvation ladder has come with a queue, and report the step; nothing if another pass was first.
--
-- KEY   starving       hash    queue -> JSON: how far the ladder has come
-- KEY   events         stream
-- ARG   queue          text    its name
-- ARG   seen           JSON    what the caller has read, '' = nothing
-- ARG   noted          JSON    what stands there from now on, different for each call; '' = nothing
-- ARG   step           text    the step to report, '' = none
-- ARG   about          JSON    for the event
-- ARG   events_maxlen  text    cap of the stream
-- returns 1 noted, 0 it is not as the caller has read it
local names = {notice = 'starvation.notice', wake = 'starvation.wake', spawn = 'starvation.spawn'}
local stands = redis.call('HGET', starving, queue) or ''
if stands == noted then
  return 1  -- sent twice
elseif stands ~= seen then
  return 0
end
if noted == '' then
  redis.call('HDEL', starving, queue)
else
  redis.call('HSET', starving, queue, noted)
end
if step ~= '' then
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', names[step], 'data', about)
end
return 1
