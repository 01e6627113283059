"""Names of the events on the stream ``{prefix}:events``.

Each entry has the field ``event`` (one of these names) and the field ``data`` (a JSON object with at
least ``at``, RFC 3339 UTC, and what the event is about).
"""

from __future__ import annotations

POLL = "poll"
LEADER = "leader"
PAUSE = "pause"
RESUME = "resume"
STORE_LOST = "store.lost"
POLL_KILLED_LEADER = "alert.poll_killed_leader"
COMPLETION = "completion"
