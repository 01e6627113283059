"""RedBeat: the schedule is in Redis, with the last run of each entry, which is written right before it is sent.

So there is nothing to restore, and its tick reads only the entries that are due. Its own lock would let a standby wait
for half an hour; the lead takes its place. One entry that cannot be read would end its tick; here it is left out.
"""

from __future__ import annotations

from typing import Any

from redbeat.schedulers import RedBeatScheduler, RedBeatSchedulerEntry, get_redis

from celery_perpetual import events
from celery_perpetual.beat.bases.base import Base
from celery_perpetual.telemetry import emit

#: When an entry that cannot be used is tried again, in seconds.
TRY_AGAIN = 5.0
#: Errors of decoders and schedules over what is stored. Those of Redis are no fault of an entry.
UNREADABLE = (ValueError, TypeError, AttributeError, ImportError, ArithmeticError)


class Refused(RedBeatSchedulerEntry):  # type: ignore[misc]
    """Stands for an entry that cannot be read; what is stored of it stays as it is."""

    error: Exception

    def is_due(self) -> Any:
        """Never."""
        raise self.error


class Readable:
    """Mixed into the class of the entries."""

    @classmethod
    def from_key(cls, key: str, app: Any = None) -> Any:
        """Read an entry.

        Raises:
            KeyError: there is none. RedBeat takes the key out of its schedule then.
        """
        base: Any = super()
        try:
            return base.from_key(key, app=app)
        except UNREADABLE as error:
            refused = Refused(key.removeprefix(app.redbeat_conf.key_prefix), "", TRY_AGAIN, app=app)
            refused.error = error
            return refused


class RedBeatBase(Base, RedBeatScheduler):  # type: ignore[misc]  # RedBeat ships no types
    """``redbeat.RedBeatScheduler``."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.Entry = type(self.Entry.__name__, (Readable, self.Entry), {})
        self._perpetual_refused: dict[str, str] = {}
        """Entries that cannot be used, and why: said once."""
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
        try:
            is_due, pause = entry.is_due()
        except Exception as error:  # of a schedule that cannot be read or reckoned
            if self._perpetual_refused.get(entry.name) != str(error):
                self._perpetual_refused[entry.name] = str(error)
                emit(events.BASE_ROW_REFUSED, row=entry.name, error=error)
            return TRY_AGAIN
        self._perpetual_refused.pop(entry.name, None)
        if is_due:
            self.reserve(entry)
            self.apply_entry(entry, **kwargs)
        return pause
