-- Keep what a task's function of tenants has found, so that another leader goes on with it until it has called the
-- function itself, and so that every process knows the tenants without a call.
--
-- KEY   leader   string  owner:term of the living leader
-- KEY   tenants  hash    name of a tenant -> the tenant, JSON
-- ARG   mine     text    owner:term
-- ARGS  rows     mixed   two per tenant: its name, and its JSON, or '' where it has gone
-- returns 1, or 0 when this caller does not lead
if redis.call('GET', leader) ~= mine then
  return 0
end
for i = rows_at, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', tenants, ARGV[i])
  else
    redis.call('HSET', tenants, ARGV[i], ARGV[i + 1])
  end
end
return 1
