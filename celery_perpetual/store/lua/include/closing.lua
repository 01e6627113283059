-- The facts of a batch that each end of an item needs are one field: "{how long the end of an item key is remembered, ms}
-- {1 = a message follows the last end} {1 = a key of it has failed before} {low water, - = none} {how keys that fail are held
-- back, - = not at all} {what hears of each end, - = nothing}": one that is not there costs as much as one that is. See
-- open_item.lua.
local function closing_text(window, on_done, has_failed, low_water, curve, each)
  return string.format('%s %d %d %s %s %s', window, on_done and 1 or 0, has_failed and 1 or 0, low_water ~= '' and low_water or '-',
    curve ~= '' and curve or '-', each ~= '' and each or '-')
end
