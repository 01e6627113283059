-- Read which routines are due, which were run by a caller that is gone, and whose pause is over. Changes nothing.
--
-- KEY   routines         hash*  routine -> record
-- KEY   routines_due     zset*  routine -> when it runs next
-- KEY   routines_inline  zset*  routine that its caller runs -> until when that is believed
-- KEY   routines_pauses  zset*  paused routine -> when its pause ends by itself
-- KEY   paused           hash*  scope -> pause
-- KEY   marks            zset*  beat -> its last mark
-- KEY   seen             string*  when a process was last in contact
-- KEY   hold             string*  until when no lease expires
-- ARG   until_           text  ms: what is due by then, '' = now
-- ARG   limit            text  most routines to answer
-- ARG   obeys            flag  1 = nothing is due while everything is paused
-- ARG   owner            text  the beat that asks, '' = it is none
-- ARG   mark             int   its last mark; where the store does not have it, the store has gone back to an older state
-- ARG   gap              ms    longest silence in which the store counts as reachable
-- returns {now, or 0 where the store has gone back; next due time or ''; then per routine: its name and its record}
-- include now
-- include pause_holds
if owner ~= '' and mark > 0 and (tonumber(redis.call('ZSCORE', marks, owner)) or 0) < mark then
  return {0, ''}
end
local reply = {now, ''}
local everything, all_routines = unpack(redis.call('HMGET', paused, '*', 'routine:*'))
local is_held = holds(all_routines) or (obeys and holds(everything))
local gone = redis.call('ZRANGEBYSCORE', routines_inline, '-inf', now, 'LIMIT', 0, limit)
if #gone > 0 then
  -- As for leases: their callers could not renew this while the store was away. Only where there is a beat is there a
  -- process that ends the silence.
  local last, held_until = tonumber(redis.call('GET', seen)), tonumber(redis.call('GET', hold))
  if held_until and held_until > now or owner ~= '' and last and now - last > gap then
    gone = {}
  end
end
local paused_before = redis.call('ZRANGEBYSCORE', routines_pauses, '-inf', now, 'LIMIT', 0, limit)
local due = is_held and {}
  or redis.call('ZRANGEBYSCORE', routines_due, '-inf', until_ ~= '' and until_ or now, 'LIMIT', 0, limit)
for _, ids in ipairs({gone, paused_before, due}) do
  -- Many, where a process passes many over; a call takes some thousands.
  for first = 1, #ids, 1000 do
    local part = {unpack(ids, first, math.min(first + 999, #ids))}
    local texts = redis.call('HMGET', routines, unpack(part))
    for i, id in ipairs(part) do
      reply[#reply + 1], reply[#reply + 2] = id, texts[i] or ''
    end
  end
end
if #reply == 2 and not is_held then
  reply[2] = redis.call('ZRANGE', routines_due, 0, 0, 'WITHSCORES')[2] or ''
end
return reply
