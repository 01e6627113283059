-- Rows of changes to routines, all or nothing. A row is twelve arguments: the routine, the version that is to be changed
-- ('' = there is none), the list that it is on in that version ('due', 'running', 'paused', 'over', or 'none'), its new
-- record ('' = remove it), its new list, its time on that list, until when its caller is believed that runs it ('' = it is no
-- caller's), when it was updated (ms), its idempotency key before and after ('' = none), and an event with its JSON, which
-- has no closing brace ('' = none). A record begins with "1 {version} ", so a version changes once.
-- Reads the locals routines, routines_due, routines_running, routines_inline, routines_pauses, routines_updated, routines_over,
-- routines_keys, events, events_maxlen, now; needs rfc3339.
local WIDTH = 12
local EVENTS = {created = 'routine.created', updated = 'routine.updated', started = 'routine.started', run = 'routine.run',
  failed = 'routine.failed', cancelled = 'routine.cancelled', deleted = 'routine.deleted'}

-- Why rows cannot be written, one word for each: 'ok' and 'done' (it was written before) are no reasons.
local function verdicts_of(at, count)
  local words, refused, ids = {}, false, {}
  for row = 1, count do
    ids[row] = ARGV[at + WIDTH * (row - 1)]
  end
  local texts = count > 0 and redis.call('HMGET', routines, unpack(ids))
  for row = 1, count do
    local id, version, text, key = ids[row], ARGV[at + 1], ARGV[at + 3], ARGV[at + 9]
    local stored, word = texts[row], 'ok'
    if text ~= '' and stored == text then
      word = 'done'
    elseif not stored and text == '' then
      word = 'done'
    elseif version == '' and stored then
      word = 'exists'
    elseif version ~= '' and not stored then
      word = 'gone'
    elseif version ~= '' and string.match(stored, '^%d+ (%d+) ') ~= version then
      word = 'stale'
    elseif key ~= '' and key ~= ARGV[at + 8] then
      local holder = redis.call('HGET', routines_keys, key)
      if holder and holder ~= id then
        word = 'key ' .. holder
      end
    end
    refused = refused or (word ~= 'ok' and word ~= 'done')
    words[row] = word
    at = at + WIDTH
  end
  return words, refused
end

local LISTS = {due = routines_due, running = routines_running, paused = routines_pauses, over = routines_over}

-- Commands on one key with many members cost less than many commands, and new routines come by hundreds.
local function add_row(at, added)
  local id, version, was, text, list, score, believed, updated, before, after, event, data = unpack(ARGV, at, at + WIDTH - 1)
  if version ~= '' then
    local left = was ~= list and added.left[was]
    if left then
      left[#left + 1] = id
    end
    if was == 'running' and list ~= was then
      redis.call('ZREM', routines_inline, id)
    end
    if before ~= '' and before ~= after then
      redis.call('HDEL', routines_keys, before)
    end
  end
  if text == '' then
    redis.call('HDEL', routines, id)
    redis.call('ZREM', routines_updated, id)
  else
    local n = #added.texts
    added.texts[n + 1], added.texts[n + 2] = id, text
    added.updates[n + 1], added.updates[n + 2] = -updated, id
    local listed = added.lists[list]
    if listed then
      n = #listed
      listed[n + 1], listed[n + 2] = score, id
    end
    if believed ~= '' then
      redis.call('ZADD', routines_inline, believed, id)
    end
    if after ~= '' and after ~= before then
      redis.call('HSET', routines_keys, after, id)
    end
  end
  if event ~= '' then
    local n = #added.events
    added.events[n + 1], added.events[n + 2] = EVENTS[event], data .. added.at
  end
end

local function write_rows(at, count, words)
  local added = {texts = {}, updates = {}, events = {}, lists = {due = {}, running = {}, paused = {}, over = {}},
    left = {due = {}, running = {}, paused = {}, over = {}}, at = ', "at": "' .. rfc3339(now) .. '"}'}
  for row = 1, count do
    if words[row] == 'ok' then
      add_row(at, added)
    end
    at = at + WIDTH
  end
  if #added.texts > 0 then
    redis.call('HSET', routines, unpack(added.texts))
    redis.call('ZADD', routines_updated, unpack(added.updates))
  end
  -- The last one cuts the stream; each time costs as much as half an event.
  local reports = added.events
  for n = 1, #reports - 2, 2 do
    redis.call('XADD', events, '*', 'event', reports[n], 'data', reports[n + 1])
  end
  if #reports > 0 then
    redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', reports[#reports - 1], 'data', reports[#reports])
  end
  for name, ids in pairs(added.left) do
    if #ids > 0 then
      redis.call('ZREM', LISTS[name], unpack(ids))
    end
  end
  for name, listed in pairs(added.lists) do
    if #listed > 0 then
      redis.call('ZADD', LISTS[name], unpack(listed))
    end
  end
end
