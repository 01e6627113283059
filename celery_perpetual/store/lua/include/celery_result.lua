-- Store Celery's own result as Celery does: a success that is there stays. Where Celery has to do it, the script ends here.
-- It is published first, because a user of the server who may not publish must not store either.
local there = redis.pcall('GET', result)
if type(there) == 'table' then
  return {'forbidden', 0, 0}
end
local is_there = false
if there then
  local is_read, meta = pcall(cjson.decode, there)
  if not is_read or type(meta) ~= 'table' or #there > 65536 then
    return {'unreadable', 0, 0}
  end
  is_there = meta.status == 'SUCCESS'
end
if not is_there then
  if type(redis.pcall('PUBLISH', result, value)) ~= 'number' then
    return {'forbidden', 0, 0}
  end
  local reply = expires == '0' and redis.pcall('SET', result, value) or redis.pcall('SETEX', result, expires, value)
  if reply.err then
    return {'forbidden', 0, 0}
  end
end
