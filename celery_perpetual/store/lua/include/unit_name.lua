-- The parts of a unit's name: "perpetual:{task}" or "perpetual:{task}:{tenant}", in which ':' and '%' are percent-encoded.
local function decoded(part)
  return (string.gsub(string.gsub(part, '%%3A', ':'), '%%25', '%%'))
end

local function task_of(unit)
  return decoded(string.match(unit, '^[^:]*:([^:]*)'))
end

-- Every scope whose pause stops the polls of a unit, the widest first; queue is '' where it is not known.
local function scopes_of(unit, queue)
  local scopes = {'*'}
  if queue ~= '' then
    scopes[2] = 'queue:' .. queue
  end
  local of_all, tenant = string.match(unit, '^([^:]*:[^:]*):(.*)$')
  if tenant then
    scopes[#scopes + 1], scopes[#scopes + 2] = 'tenant:' .. decoded(tenant), of_all
  end
  scopes[#scopes + 1] = unit
  return scopes
end

-- JSON of the tenant's name, or 'null' without one, or without a unit.
local function tenant_json(unit)
  local tenant = unit and string.match(unit, '^[^:]*:[^:]*:(.*)$')
  return tenant and cjson.encode(decoded(tenant)) or 'null'
end
