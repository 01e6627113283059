-- Read which routines are due, and which were run by a caller that is gone. Changes nothing.
--
-- KEY   routines         hash  routine -> record
-- KEY   routines_due     zset  routine -> when it runs next
-- KEY   routines_inline  zset  routine that its caller runs -> until when that is believed
-- KEY   paused           hash  scope -> pause
-- ARG   until_           text  ms: what is due by then, '' = now
-- ARG   limit            text  most routines to answer
-- ARG   obeys            flag  1 = nothing is due while everything is paused
-- returns {now, next due time or '', then per routine: its name and its record}
-- include now
-- include pause_holds
local reply = {now, ''}
if obeys and holds(redis.call('HGET', paused, '*')) then
  return reply
end
local gone = redis.call('ZRANGEBYSCORE', routines_inline, '-inf', now, 'LIMIT', 0, limit)
local due = redis.call('ZRANGEBYSCORE', routines_due, '-inf', until_ ~= '' and until_ or now, 'LIMIT', 0, limit)
for _, ids in ipairs({gone, due}) do
  if #ids > 0 then
    local texts = redis.call('HMGET', routines, unpack(ids))
    for i, id in ipairs(ids) do
      reply[#reply + 1], reply[#reply + 2] = id, texts[i] or ''
    end
  end
end
if #reply == 2 then
  reply[2] = redis.call('ZRANGE', routines_due, 0, 0, 'WITHSCORES')[2] or ''
end
return reply
