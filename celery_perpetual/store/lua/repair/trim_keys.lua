-- Free item keys whose tasks are not in the ledger any more.
--
-- KEY   item_keys  hash  item key -> task id
-- KEY   unit_hash  hash  the unit
-- KEY   staged     zset  "poll unit" whose records wait for their commit
-- ARG   unit       text  its name
-- ARG   prefix     text  of all keys
-- ARGS  keys       text  item keys
-- returns how many were wrong
-- include types
local wrong, claim = 0, redis.call('HGET', unit_hash, 'claim')

local function is_open(id, poll)
  local index = tonumber(string.sub(id, 29), 16)
  if not index then
    return false
  end
  local place = poll .. ':' .. math.floor(index / 500)
  local record = redis.pcall('LINDEX', prefix .. ':i:' .. place, index % 500)
  return type(record) == 'string' and redis.call('EXISTS', prefix .. ':p:' .. poll) == 1
    and redis.pcall('GETBIT', prefix .. ':d:' .. place, index % 500) == 0
end

for i = keys_at, #ARGV do
  local id = redis.call('HGET', item_keys, ARGV[i])
  local poll = id and string.sub(id, 1, 28) .. 'ffffffff'
  if id and claim ~= poll and not redis.call('ZSCORE', staged, poll .. ' ' .. unit) and not is_open(id, poll) then
    wrong = wrong + redis.call('HDEL', item_keys, ARGV[i])
  end
end
return wrong
