"""A member of a chord whose process may have died before, or after, Celery counted it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery, states

from celery_perpetual.completions.chords import count_in_chord


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Celery's Redis backend calls what redis-py calls old
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_member_that_was_counted_is_not_counted_again(redis_url: str, ordered: bool) -> None:
    """The results of a chord without an order are a list, in which the older Celery finds no member."""
    app = Celery("proj", backend=redis_url)
    app.conf.result_backend_transport_options = {"result_chord_ordered": ordered}
    backend: Any = app.backend
    request: Any = SimpleNamespace(
        id="member", group="group", group_index=0, chord={"task": "proj.body"}, ignore_result=False, chain=None,
    )  # fmt: skip
    backend.set_chord_size("group", 2)
    backend.store_result("member", 1, states.SUCCESS, request=None)
    backend.on_chord_part_return(request, states.SUCCESS, 1)

    count_in_chord(app, None, request)

    client = redis.Redis.from_url(redis_url)
    counted = backend.get_key_for_group("group", ".j")
    assert (client.zcard if ordered else client.llen)(counted) == 1
