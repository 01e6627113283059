"""Routines of an app in this process, on the real server: run by the test itself, at times that the test says."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from celery_perpetual import Perpetual
from celery_perpetual.completions.end import TaskEnd
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from celery_perpetual.routines.routine import Routine, RoutineRun


def note(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


class World:
    """An app with tasks that do what they are told, and its routines."""

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        self.app, self.redis = app, client
        self.perpetual = Perpetual(app)
        self.routines = self.perpetual.routines
        self.slots: list[datetime | None] = []
        """The slots of the tasks that have run here."""
        self.dies = 0
        """So many of the next runs end their process."""
        self.fails = 0
        """So many of the next runs fail."""

        def work(*args: Any) -> Any:
            return self._work(*args)

        app.task(name="app.work", shared=False)(work)
        app.task(name="app.note", shared=False)(note)

    def _work(self, *args: Any) -> Any:
        self.slots.append(self.perpetual.slot())
        if self.dies:
            self.dies -= 1
            raise SystemExit
        if self.fails:
            self.fails -= 1
            raise ValueError("told to fail")
        return list(args)

    def now(self) -> datetime:
        """The store's time, whole milliseconds."""
        return datetime.fromtimestamp(self.perpetual.store.now() / 1000, timezone.utc)

    def create(self, *args: Any, **fields: Any) -> Routine:
        return self.routines.create("app.work", args, **fields)

    def run(self, at: datetime | None = None, **options: Any) -> list[RoutineRun]:
        """Run what is due in this process."""
        return self.routines.run_due(at, run_inline=True, **options)

    def ends(
        self, run: RoutineRun, status: str = "success", *, result: Any = None, raised: Exception | None = None
    ) -> None:
        """A worker stores the end of a run, and does what follows."""
        self.perpetual.announcer.announce(
            TaskEnd(task_id=run.task_id, task="app.work", status=status, result=result, exception=raised, nonce="*")
        )
        wait_until(lambda: not self.redis.exists("perpetual:batches"), "what follows is done")

    def events(self, *names: str) -> list[tuple[str, dict[str, Any]]]:
        """Events of routines on the stream, name and data."""
        entries = [(fields["event"], json.loads(fields["data"])) for _, fields in self.redis.xrange("perpetual:events")]
        return [each for each in entries if each[0].startswith("routine.") and (not names or each[0] in names)]

    def messages(self) -> list[dict[str, Any]]:
        """Read the messages in the queue, the oldest first."""
        return [json.loads(text) for text in reversed(self.redis.lrange("celery", 0, -1))]


def after(base: datetime, milliseconds: float) -> datetime:
    return base + timedelta(milliseconds=milliseconds)
