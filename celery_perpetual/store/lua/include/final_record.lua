-- The final record of a task: the locals final, fields (without its closing brace), and at, the time in it. "item" is its open item in the
-- ledger, "state" is its state as a table. Needs rfc3339, tenant_json.
local at, fields, final
if head ~= '' then
  at = rfc3339(now)
  fields = head .. ', "finished_at": "' .. at .. '", "poll_id": ' .. (item and '"' .. poll .. '"' or 'null')
    .. ', "key": ' .. (item and item.key and cjson.encode(item.key) or 'null') .. ', "recoveries": '
    .. (state and state.recoveries or '0') .. ', "tenant": ' .. tenant_json(item and item.unit)
    .. ', "arguments": ' .. (item and item.arguments or 'null')
  final = fields .. '}'
end
