-- Remember that an entry of the base scheduler is being sent, if the caller leads. Sent twice it has one effect.
--
-- KEY   leader  string  owner:term of the living leader
-- KEY   base    hash    entry of the base scheduler -> its last run
-- ARG   mine    text    owner:term
-- ARG   name    text    the entry
-- ARG   run     text    when, and the number of its runs with this one
-- returns 1, or 0 when the caller does not lead
if redis.call('GET', leader) ~= mine then
  return 0
end
redis.call('HSET', base, name, run)
return 1
