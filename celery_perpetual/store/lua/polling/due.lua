-- Read which units are due. Changes nothing.
--
-- KEY   due          zset* unit -> next poll
-- ARG   limit        text  most units to answer
-- ARG   unit_prefix  text  what the keys of unit hashes start with
-- ARG   mine         text  owner:term
-- returns {now, due time of the first unit that is not answered or '', lines}, a line per due unit: "{due time} {anchor}
-- {trigger} {suspect} {unit}"; '-' is none, and suspect is 1 where a poll was open when an earlier leader died. One text is
-- read faster than many.
-- include now
-- include claimed
local found, following, lines = redis.call('ZRANGE', due, 0, 1, 'WITHSCORES'), '', {}
if not found[2] or tonumber(found[2]) > now then
  return {now, found[2] or '', ''}
end
if found[4] and tonumber(found[4]) <= now then
  found = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  following = redis.call('ZRANGE', due, #found / 2, #found / 2, 'WITHSCORES')[2] or ''
else
  found, following = {found[1], found[2]}, found[4] or ''
end
for i = 1, #found, 2 do
  -- A unit's key of a wrong type fails the claim of that unit, and not the read of all units that are due with it.
  local facts = redis.pcall('HMGET', unit_prefix .. found[i], 'anchor', 'trigger', 'killed', 'claimed')
  local by = facts[4] and select(5, claimed_facts(facts[4]))
  local left_open = by and by ~= '' and by ~= mine
  local suspect = left_open or (tonumber(facts[3]) or 0) > 0
  lines[#lines + 1] = table.concat({found[i + 1], facts[1] or '-', facts[2] or '-', suspect and '1' or '0', found[i]}, ' ')
end
return {now, following, table.concat(lines, '\n')}
