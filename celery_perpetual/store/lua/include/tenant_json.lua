-- The parts of a unit's name: "perpetual:{task}" or "perpetual:{task}:{tenant}", in which ':' and '%' are percent-encoded.
local function decoded(part)
  return (string.gsub(string.gsub(part, '%%3A', ':'), '%%25', '%%'))
end

-- JSON of the tenant's name, or 'null' without one, or without a unit.
local function tenant_json(unit)
  local tenant = unit and string.match(unit, '^[^:]*:[^:]*:(.*)$')
  return tenant and cjson.encode(decoded(tenant)) or 'null'
end
