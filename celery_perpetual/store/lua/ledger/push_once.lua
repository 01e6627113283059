-- Push messages for an entry of a waiting list and take the entry out, in one step: a second call does nothing.
--
-- KEY   waiting   zset   entry -> since
-- KEYS  targets   list   what the broker commands name
-- ARG   entry     text   the entry
-- ARGS  commands  mixed  broker commands
-- returns 1 pushed, 0 it was pushed before
-- include push
if not redis.call('ZSCORE', waiting, entry) then
  return 0
end
push(commands_at)
redis.call('ZREM', waiting, entry)
return 1
