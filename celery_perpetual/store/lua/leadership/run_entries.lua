-- Remember the last runs of entries of the base scheduler, if the caller leads. Sent twice it has one effect.
--
-- KEY   leader  string  owner:term of the living leader
-- KEY   base    hash    entry of the base scheduler -> its last run
-- ARG   mine    text    owner:term
-- ARGS  rows    text    two per entry: its name; when, and the number of its runs with this one, or '' to forget it
-- returns 1, or 0 when the caller does not lead
if redis.call('GET', leader) ~= mine then
  return 0
end
for at = rows_at, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', base, ARGV[at])
  else
    redis.call('HSET', base, ARGV[at], ARGV[at + 1])
  end
end
return 1
