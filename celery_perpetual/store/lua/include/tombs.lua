-- Tombstones are kept by the day on which their task ended. Reads the locals id, tombs_prefix, now.
local today = math.floor(now / 86400000)

-- Whether the task has ended today, or on one of so many days before.
local function has_tomb(days)
  for day = today, today - days, -1 do
    if redis.call('SISMEMBER', tombs_prefix .. day, id) == 1 then
      return true
    end
  end
  return false
end

local function remove_tombs(days)
  for day = today, today - days, -1 do
    redis.call('SREM', tombs_prefix .. day, id)
  end
end
