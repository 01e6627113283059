-- A worker lives for another lease time, though it cannot report now. A worker that was forgotten stays so until it reports.
--
-- KEY   workers    zset    worker -> deadline
-- KEY   seen       string  when a process was last in contact
-- KEY   hold       string  until when no lease expires
-- ARG   worker     text    instance of the worker
-- ARG   lease_ttl  ms      lease time
-- ARG   gap        ms      longest silence in which the store counts as reachable
-- ARG   reporting  ms      how long every worker needs to report to a store that was away
-- returns nothing
-- include now
-- include contact
contact()
redis.call('ZADD', workers, 'XX', string.format('%.0f', now + lease_ttl), worker)
