-- Let a unit be polled at once; it goes back to its grid afterwards. Nudging twice is one nudge.
--
-- KEY   unit_hash  hash  the unit
-- KEY   due        zset  unit -> next poll
-- ARG   unit       text  name of the unit
-- ARG   trigger    text  why
-- returns 1 if it is due now, 0 if the unit is not in the clock
-- include now
-- include poll_soon
return poll_soon(unit_hash, due, unit, trigger)
