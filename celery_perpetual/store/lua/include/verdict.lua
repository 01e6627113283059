-- Why an end does not count: "verdict" is nil where it does. One end counts: an end after it is late, and so is an end
-- while another delivery has the lease. A script that takes a lease away leaves a state or an end, so where there is
-- neither, the store has come back older than the lease, and the execution that ran under it is the holder. "record" is what
-- is stored of the end, "item" is the open item, and "is_closed" says that the item is closed already. Goes on from execution.
--
-- An end that stops a successor before it starts has no lease. It may come while the lease is still that of the
-- execution which has handed on the task: with a successor on record, the lease does not make it late.
if state then
  -- include lease
  state = state_of(state)
end
local has_successor = not started and lease and state and (state.flag == 'wait' or state.flag == 'delegated')
  and (state.nesting ~= tonumber(nesting) or state.retries ~= tonumber(retries))
local verdict
if record and head ~= '' and string.sub(record, 1, #head) == head then
  verdict = 'first'  -- this call was made before
elseif (record and string.find(record, '"final": true', 1, true)) or (lease and nonce ~= '*' and holder ~= nonce and not has_successor) then
  verdict = 'late'
elseif is_closed then
  -- A silent end leaves no record by which a repeated call is known.
  verdict = head == '' and 'first' or 'late'
elseif not lease and started and state then
  verdict = 'late'
elseif not (item or lease or state) then
  -- include tombs
  if has_tomb(1) then
    verdict = head == '' and 'unknown' or 'late'
  end
end
