-- A poll is on its way to a worker: its claim belongs to no term any more and lasts while the message waits. Where a
-- worker has it already, or sent twice, it changes nothing.
--
-- Where the broker is this Redis, its message is pushed here, before the items that wait in its queue: a unit that fills
-- the queue would take the slots of all others. It comes behind the polls that wait, and behind everything where many do.
--
-- KEY   unit_hash  hash   the unit
-- KEYS  targets    list   what the broker commands name
-- ARG   poll       text   poll id
-- ARG   valid      ms     how long the claim lasts from now
-- ARG   mark       text   by which the message of a poll is known
-- ARGS  commands   mixed  broker commands; none where the message is sent already
-- returns 1, or 0 when another poll has the claim or has ended
-- include now
-- include claimed
local MOST_AHEAD = 100

local function push_ahead(queue, message)
  local last
  for back = 1, MOST_AHEAD do
    local waiting = redis.call('LINDEX', queue, -back)
    if not waiting or not string.find(waiting, mark, 1, true) then
      return last and redis.call('LINSERT', queue, 'BEFORE', last, message) or redis.call('RPUSH', queue, message)
    end
    last = waiting
  end
  return redis.call('LPUSH', queue, message)
end

local open = redis.call('HMGET', unit_hash, 'claim', 'claimed')
local slot, started, _, trigger, by = claimed_facts(open[2])
if open[1] ~= poll or not slot then  -- without its facts a claim is over
  return 0
end
if by ~= '' then
  redis.call('HSET', unit_hash, 'claimed', claimed_text(slot, started, now + valid, trigger, ''))
  for i = commands_at, #ARGV, 4 do
    local command, target, value = ARGV[i], targets[tonumber(ARGV[i + 1])], ARGV[i + 3]
    if command == 'LPUSH' then
      push_ahead(target, value)
    else
      redis.call(command, target, value)
    end
  end
end
return 1
