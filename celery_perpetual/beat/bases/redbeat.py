"""RedBeat: the schedule is in Redis, with the last run of each entry, which is written right before it is sent.

So there is nothing to restore, and its tick reads only the entries that are due. Its own lock would let a standby wait
for half an hour; the lead takes its place.
"""

from __future__ import annotations

from typing import Any

from redbeat.schedulers import RedBeatScheduler, get_redis

from celery_perpetual import events
from celery_perpetual.beat.bases.base import Base
from celery_perpetual.telemetry import emit


class RedBeatBase(Base, RedBeatScheduler):  # type: ignore[misc]  # RedBeat ships no types
    """``redbeat.RedBeatScheduler``."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        # Its handler of beat_init waits for this lock, and its tick prolongs it, unless there is none.
        self.lock_key = None

    def _perpetual_begin(self) -> None:
        app: Any = self.app
        lock = app.redbeat_conf.lock_key
        if lock and get_redis(app).exists(lock):
            emit(events.BASE_LOCK_HELD, lock=lock)
        super()._perpetual_begin()

    def _perpetual_names(self) -> set[str]:
        app: Any = self.app
        conf = app.redbeat_conf
        return {str(key).removeprefix(conf.key_prefix) for key in get_redis(app).zrange(conf.schedule_key, 0, -1)}

    def maybe_due(self, entry: Any, **kwargs: Any) -> Any:
        """Send an entry if it is due; seconds until it may be.

        Raises:
            NotLeading: another beat leads; the entry was not sent. RedBeat would log that as a failure of the entry,
                and go on with the next one.
        """
        is_due, pause = entry.is_due()
        if is_due:
            self.reserve(entry)
            self.apply_entry(entry, **kwargs)
        return pause
