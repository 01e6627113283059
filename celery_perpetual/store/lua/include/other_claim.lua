-- The claim of another poll. Reads the locals events, events_maxlen, leader, now, polls_prefix, ttl; needs claimed,
-- clock_step, outcome, rfc3339, unit_name.

-- The stored claim of a poll, with times that do not lie ahead.
local function claim_of(unit_hash, poll)
  local facts = redis.call('HMGET', unit_hash, 'claimed', 'killed')
  local slot, started, till, trigger, by = claimed_facts(facts[1])
  if not slot then  -- a strange hand has removed the facts: it is over
    slot, started, till, trigger, by = now, now, 0, 'schedule', ''
  end
  till = tonumber(till)
  if is_ahead(started) then
    -- It was taken while the store's clock was ahead: it lasts from now for as long as it was to last.
    till, started = now + till - tonumber(started), now
    redis.call('HSET', unit_hash, 'claimed', claimed_text(slot, started, till, trigger, by))
  end
  return {poll = poll, slot = slot, trigger = trigger, started = started, till = till, by = by, killed = tonumber(facts[2]) or 0}
end

-- Whether the poll is still expected to end: its time is not over, and the beat that claimed it leads. The claim of a
-- worker, or of a call by hand, belongs to no term.
local function may_end(claim)
  return claim.till > now and (claim.by == '' or claim.by == redis.call('GET', leader))
end

-- Store the outcome of a poll that loses its claim.
local function end_other(unit, claim, status, history)
  local json = string.format(
    '{"poll_id": %s, "unit": %s, "task": %s, "tenant": %s, "slot": "%s", "trigger": "%s", "status": "%s", "started_at": "%s",'
      .. ' "finished_at": "%s", "at": "%s"}',
    cjson.encode(claim.poll), cjson.encode(unit), cjson.encode(task_of(unit)), tenant_json(unit), rfc3339(tonumber(claim.slot)),
    claim.trigger, status, rfc3339(tonumber(claim.started)), rfc3339(now), rfc3339(now))
  write_outcome(polls_prefix .. unit, history, ttl, '', string.format('%.0f', now), json)
  redis.call('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'poll', 'data', json)
end
