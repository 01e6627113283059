"""An app in this process whose polls are watched: which messages did Celery itself build?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.publishing import capture as capturing

if TYPE_CHECKING:
    import pytest
    import redis
    from celery import Celery

ROWS = 20


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do what the tasks of this file do, but for those that a worker runs."""


class WatchedApp:
    """An app in this process, and how many messages Celery built for it one by one."""

    def __init__(self, app: Celery, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app, self.redis = app, redis_client
        self.perpetual = Perpetual(app)
        self.built: list[str] = []
        usual = capturing.Capture.commands

        def commands(capture: Any, record: Any, task_id: str, *args: Any, **more: Any) -> Any:
            self.built.append(task_id)
            return usual(capture, record, task_id, *args, **more)

        monkeypatch.setattr(capturing.Capture, "commands", commands)

    def task(self, items: list[Any], **options: Any) -> Any:
        # A shared task would come up in the apps of later tests as well.
        options = {"base": PerpetualTask, "name": "app.work", "shared": False, "next_batch": lambda: items, **options}
        return self.app.task(poll_every=60, **options)(nothing)

    def poll(self, items: list[Any], **options: Any) -> Any:
        outcome = self.perpetual.poll(self.task(items, **options))
        assert outcome.status == "enqueued", outcome
        return outcome

    def messages(self, queue: str = "celery") -> list[dict[str, Any]]:
        return [json.loads(text) for text in reversed(self.redis.lrange(queue, 0, -1))]

    @property
    def stamped(self) -> bool:
        return len(self.built) <= 3
