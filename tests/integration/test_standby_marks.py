"""The marks by which a leader knows that another beat could lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual import Perpetual
from celery_perpetual.store.commands.leadership import has_standby

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def test_only_a_mark_of_just_now_is_one_of_a_standby(make_app: Callable[..., Celery]) -> None:
    """A dead beat's mark lies in the past, or in the future where the store's clock was ahead."""
    store = Perpetual(make_app("shop")).store
    for ahead, is_there in ((-60_000, False), (60_000, False), (500, True), (-500, True)):
        store.redis.delete(store.keys.marks)
        store.redis.zadd(store.keys.marks, {"own": store.now(), "other": store.now() + ahead})
        assert has_standby(store, "own") is is_there, ahead
    store.close()
