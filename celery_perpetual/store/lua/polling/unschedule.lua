-- Take units out of the clock: disabled, or unknown to the leader's code. What they remember stays.
--
-- KEYS[1] leader  string  owner:term of the living leader
-- KEYS[2] due     zset    unit -> next poll
-- ARGV[1] mine    text    owner:term
-- ARGV[2..] unit  text    names
-- returns 1, or 0 when this caller does not lead
local leader, due = KEYS[1], KEYS[2]
local mine = ARGV[1]
if redis.call('GET', leader) ~= mine then
  return 0
end
if #ARGV > 1 then
  redis.call('ZREM', due, unpack(ARGV, 2))
end
return 1
