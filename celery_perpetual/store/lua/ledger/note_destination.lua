-- Note where a retry or a replacement of an item is sent to.
--
-- KEY   batch        hash  the committed batch
-- ARG   index        text  index of the item
-- ARG   destination  JSON  exchange, routing key and priority
-- returns 1 noted, 0 the batch is not there any more
if redis.call('EXISTS', batch) == 0 then
  return 0
end
redis.call('HSET', batch, 'at:' .. index, destination, 'moved', 1)
return 1
