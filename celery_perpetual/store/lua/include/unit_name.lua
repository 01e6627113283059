-- include tenant_json
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
