-- Begin and end alerts. An alert that is on does not begin, and one that is not on does not end, so that each of both is
-- said once, however many processes see it.
--
-- KEY   alerts         hash    alert -> JSON: what is wrong, and since when
-- KEY   events         stream
-- ARG   most           int     alerts that may be on at once
-- ARG   events_maxlen  text    cap of the stream
-- ARGS  changes        mixed   four per change: 'begin' or 'end', alert, kind, JSON for the event
-- returns how many alerts are on
local NAMES = {
  unit_silent = 'alert.unit_silent', unit_failing = 'alert.unit_failing', poll_budget = 'alert.poll_budget',
  no_leader = 'alert.no_leader', worker_late = 'alert.worker_late', worker_lost = 'alert.worker_lost',
  store_memory = 'alert.store_memory', eviction_policy = 'alert.eviction_policy', seam_unknown = 'alert.seam_unknown',
  items_replaced = 'alert.items_replaced',
}
local on = redis.call('HLEN', alerts)
for at = changes_at, #ARGV, 4 do
  local change, alert, name, data = ARGV[at], ARGV[at + 1], NAMES[ARGV[at + 2]], ARGV[at + 3]
  local changed
  if change == 'begin' then
    changed = name and on < most and redis.call('HSETNX', alerts, alert, data) == 1
    on = on + (changed and 1 or 0)
  else
    changed = redis.call('HDEL', alerts, alert) == 1
    on = on - (changed and 1 or 0)
  end
  if changed and name then
    redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', name, 'data', data)
  end
end
return on
