-- Push messages for an entry of a waiting list and take the entry out, in one step: whoever comes second does nothing.
--
-- KEYS[1] waiting     zset  entry -> since
-- KEYS[2..] target    any   what the broker commands name
-- ARGV[1] entry       text  what waits
-- ARGV[2..] command   mixed broker commands
-- returns 1 pushed, 0 somebody else was first
local waiting = KEYS[1]
local entry = ARGV[1]
-- include must_be
-- include push
targets_must_be_lists(2)
if not redis.call('ZSCORE', waiting, entry) then
  return 0
end
push(2)
redis.call('ZREM', waiting, entry)
return 1
