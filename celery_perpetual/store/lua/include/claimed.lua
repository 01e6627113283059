-- The facts of an open claim are one field of the unit's hash, "{slot} {started} {until} {trigger} {by}": a field that is not
-- there costs a script nearly as much as one that is. Times are ms, and "by" is owner:term, or '' for a poll by hand or in a
-- worker.
local function claimed_text(slot, started, till, trigger, by)
  return slot .. ' ' .. started .. ' ' .. till .. ' ' .. trigger .. ' ' .. by
end

local function claimed_facts(text)
  local slot, started, till, trigger, by = string.match(text or '', '^(%S+) (%S+) (%S+) (%S+) (.*)$')
  return slot, started, till, trigger, by
end
