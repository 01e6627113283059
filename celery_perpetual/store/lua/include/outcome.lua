-- Outcomes of a unit are a list, newest first. An entry is "{repeated} {first at} {sign}\n{JSON}"; runs of entries
-- with one sign (nothing to do, or one and the same closed gate) are folded into the newest of them.
local DAY = 86400000
local KEPT = {empty = DAY, skipped = DAY, failed = 30 * DAY, timed_out = 30 * DAY}

-- Forget the oldest entries whose time is over, a few at a time.
local function forget_old(list, at)
  for _ = 1, 3 do
    local oldest = redis.call('LINDEX', list, -1)
    local since, status = string.match(oldest or '', '^%d+ (%d+) .-"status": ?"([%a_]+)"')
    if not since or at - since <= (KEPT[status] or 7 * DAY) then
      return
    end
    redis.call('RPOP', list)
  end
end

-- How many outcomes the newest entry stands for with one more of this sign, and when the first of them came. "newest" is the
-- list's first entry, where the sign is not ''.
local function run_of(sign, at, newest)
  if newest and sign ~= '' then
    local times, since, same = string.match(newest, '^(%d+) (%d+) ([^\n]*)\n')
    if same == sign then
      return tonumber(times) + 1, since
    end
  end
  return 1, at
end

-- "polled" is when a poll of the unit has ended before. Returns how many outcomes the newest entry stands for.
local function write_outcome(list, history, ttl, sign, at, json, newest, polled)
  local repeated, first = run_of(sign, at, newest)
  local length = 0
  local entry = repeated .. ' ' .. first .. ' ' .. sign .. '\n' .. json
  if repeated > 1 then
    redis.call('LSET', list, 0, entry)
  else
    length = redis.call('LPUSH', list, entry)
    if length > history then
      redis.call('LTRIM', list, 0, history - 1)
    end
    if length > 1 then
      forget_old(list, tonumber(at))
    end
  end
  -- The list lives for weeks after the last poll, so its time is set anew once a day.
  if length == 1 or not polled or math.floor((tonumber(polled) or 0) / DAY) ~= math.floor(tonumber(at) / DAY) then
    redis.call('PEXPIRE', list, ttl)
  end
  return repeated
end
