-- Read which units are due. Changes nothing.
--
-- KEY   due          zset* unit -> next poll
-- ARG   limit        int   most units to answer
-- ARG   unit_prefix  text  what the keys of unit hashes start with
-- ARG   mine         text  owner:term
-- returns {now, due time of the first unit that is not answered or '', lines, then names that are none of a unit, as they have
-- several lines}, a line per due unit: "{due time} {anchor} {trigger} {suspect} {unit}"; '-' is none, also for what a strange
-- hand has written and cannot be read, and suspect is 1 where a poll was open when an earlier leader died. One text is read
-- faster than many.
-- include now
-- include claimed
-- Mostly a few are due, or none, and one command reads them and the one that follows.
local few = math.min(limit, 3)
local found, count, lines, names = redis.call('ZRANGE', due, 0, few, 'WITHSCORES'), 0, {}, {}
while count < few and found[2 * count + 2] and tonumber(found[2 * count + 2]) <= now do
  count = count + 1
end
local following = found[2 * count + 2] or ''
if count == few and few < limit then
  found = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  count = #found / 2
  following = redis.call('ZRANGE', due, count, count, 'WITHSCORES')[2] or ''
end
if count == 0 then
  return {now, following, ''}
end
local function word(text)
  return text and string.find(text, '^%S+$') and text or '-'
end
for i = 1, 2 * count, 2 do
  -- A unit's key of a wrong type fails the claim of that unit, and not the read of all units that are due with it.
  local facts = redis.pcall('HMGET', unit_prefix .. found[i], 'anchor', 'trigger', 'killed', 'claimed')
  local by = facts[4] and select(5, claimed_facts(facts[4]))
  local left_open = by and by ~= '' and by ~= mine
  local suspect = left_open or (tonumber(facts[3]) or 0) > 0
  if string.find(found[i], '\n', 1, true) then
    names[#names + 1] = found[i]
  else
    lines[#lines + 1] = table.concat({found[i + 1], word(facts[1]), word(facts[2]), suspect and '1' or '0', found[i]}, ' ')
  end
end
return {now, following, table.concat(lines, '\n'), unpack(names)}
