-- Read which units are due. Changes nothing.
--
-- KEYS[1] due          zset  unit -> next poll
-- ARGV[1] limit        int   most units to answer
-- ARGV[2] unit_prefix  text  what the keys of unit hashes start with
-- returns {now, next due time or '', then per due unit: name, due time, anchor, trigger}
local due = KEYS[1]
local limit, unit_prefix = ARGV[1], ARGV[2]
-- include now
local found = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
local reply = {now, ''}
for i = 1, #found, 2 do
  local known = redis.call('HMGET', unit_prefix .. found[i], 'anchor', 'trigger')
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = found[i], found[i + 1], known[1] or '', known[2] or ''
end
if #found == 0 then
  reply[2] = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''
end
return reply
