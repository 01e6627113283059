-- How many items the polls of units have enqueued lately, and the newest watermark, from the stored outcomes. Changes
-- nothing.
--
-- KEYS  polls      list  outcomes of one unit, newest first
-- ARG   short      ms    the shorter of two spans
-- ARG   long       ms    the longer one
-- ARG   step       int   outcomes that are read at once
-- ARGS  histories  int   per list: how many outcomes it may have; a full list has lost older ones
-- returns per list: "{items of the shorter span} {items of the longer one} {ms} {watermark or -}"; the list goes back so
-- many ms, or further than the longer span
-- include now
local function rates_of(list, history)
  local few, many, watermark, first = 0, 0, '-', 0
  while true do
    local part, oldest = redis.call('LRANGE', list, first, first + step - 1), now
    for i = 1, #part do
      local at, outcome = tonumber(string.match(part[i], '^%d+ (%d+) ')), part[i]
      oldest = at
      if watermark == '-' then
        watermark = string.match(outcome, '"watermark": "([^"]+)"') or '-'
      end
      -- A folded outcome is as old as the first poll of its run; one that is never folded says how old the rest is.
      if string.find(outcome, '"status": "enqueued"', 1, true) then
        if now - at > long then
          return few, many, long, watermark
        end
        local count = tonumber(string.match(outcome, '"count": (%d+)')) or 0
        few, many = few + (now - at <= short and count or 0), many + count
      end
    end
    first = first + #part
    if #part < step then
      return few, many, first < history and long or math.min(math.max(now - oldest, short), long), watermark
    end
  end
end

local reply = {}
for i = 1, #polls do
  reply[i] = table.concat({rates_of(polls[i], tonumber(ARGV[histories_at + i - 1]) or 0)}, ' ')
end
return reply
