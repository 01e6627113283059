-- Read which units are due. Changes nothing.
--
-- KEY   due          zset  unit -> next poll
-- ARG   limit        text  most units to answer
-- ARG   unit_prefix  text  what the keys of unit hashes start with
-- ARG   mine         text  owner:term
-- returns {now, next due time or '', then per due unit: name, and "{due time} {anchor} {trigger} {suspect}"}; '-' is
-- none, and suspect is 1 where a poll was open when an earlier leader died
-- include now
local found = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
local reply = {now, ''}
for i = 1, #found, 2 do
  -- A unit whose key is of a wrong type is for its claim to find out, not for all units that are due with it.
  local known = redis.pcall('HMGET', unit_prefix .. found[i], 'anchor', 'trigger', 'killed', 'claim_by')
  local left_open = known[4] and known[4] ~= '' and known[4] ~= mine
  local suspect = left_open or (tonumber(known[3]) or 0) > 0
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = table.concat({found[i + 1], known[1] or '-', known[2] or '-', suspect and '1' or '0'}, ' ')
end
if #found == 0 then
  reply[2] = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''
end
return reply
