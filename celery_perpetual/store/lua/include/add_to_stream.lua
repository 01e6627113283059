-- Add the end to the stream: the local added is its id there, or the error of the server. Goes on from final_record.
local added = redis.pcall('XADD', events, 'MAXLEN', '~', events_maxlen, '*', 'event', 'completion', 'data',
  fields .. ', "at": "' .. at .. '"}')
