"""The file in which Celery's own scheduler keeps its schedule."""

from __future__ import annotations

import errno
import pickle
from typing import TYPE_CHECKING, Any

from celery_perpetual import PerpetualScheduler
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery import Celery


class Disk:
    """The database of a shelf, on a disk that may be full."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.is_full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def __getitem__(self, key: bytes) -> bytes:
        return bytes(self._database[key])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._database[key] = value


def test_a_file_that_could_not_be_written_is_written_later(make_app: Callable[..., Celery], tmp_path: Path) -> None:
    """A shelf writes nothing more after a failure unless it is said to; the trouble ends when the schedule is stored."""
    scheduler: Any = PerpetualScheduler(make_app("shop"), schedule_filename=str(tmp_path / "schedule"))
    try:
        wait_until(lambda: scheduler.tick() and scheduler._store is not None, "it leads")
        disk = scheduler._store.dict = Disk(scheduler._store.dict)
        scheduler.add(name="new", task="shop.new", schedule=3600)

        disk.is_full = True
        scheduler.sync()
        assert "cannot be stored" in scheduler._perpetual_engine.lead_health.trouble
        disk.is_full = False
        scheduler.sync()

        assert scheduler._perpetual_engine.lead_health.trouble is None
        assert "new" in pickle.loads(disk[b"entries"])  # noqa: S301  # written by this test
    finally:
        scheduler.close()
