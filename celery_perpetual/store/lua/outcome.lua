-- Outcomes of a unit are a list, newest first. An entry is "{repeated} {first at} {sign}\n{JSON}"; runs of entries
-- with one sign (nothing to do, or one and the same closed gate) are folded into the newest of them.
local function write_outcome(list, history, ttl, sign, at, json)
  local newest = sign ~= '' and redis.call('LINDEX', list, 0)
  local repeated, first = 1, at
  if newest then
    local times, since, same = string.match(newest, '^(%d+) (%d+) ([^\n]*)\n')
    if same == sign then
      repeated, first = tonumber(times) + 1, since
    end
  end
  local entry = string.format('%d %s %s\n%s', repeated, first, sign, json)
  if repeated > 1 then
    redis.call('LSET', list, 0, entry)
  else
    redis.call('LPUSH', list, entry)
    redis.call('LTRIM', list, 0, history - 1)
  end
  redis.call('PEXPIRE', list, ttl)
end
