"""The user who is on record with an operation, also where the machine knows none."""

from __future__ import annotations

import os
import pwd
import socket
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import OPERATOR, PART_FAILED
from tests.support.event_log import logged
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def no_user(_: int) -> Any:
    raise KeyError("getpwuid(): uid not found")


def test_a_container_whose_user_id_has_no_user(one: WatchedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is on record, and every verb acts."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    by = f"uid {os.getuid()}@{socket.gethostname()}"
    (task_id,) = one.poll([(1,)]).task_ids
    one.perpetual.routines.create("app.work", id="nightly", every=3600)

    assert one.perpetual.cancel(task_id, once=True, reason="bad")
    assert one.perpetual.pause("app.work").by == by
    assert one.perpetual.routines.pause("nightly").pause["by"] == by
    assert one.perpetual.drain(0).completed
    assert [about["by"] for about in events(one.redis, OPERATOR.name)] == [by, by]


def test_a_verb_that_has_acted_returns_its_results(
    one: WatchedApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that keeps it from being put on record is reported."""

    def no_host() -> str:
        raise OSError("no host name")

    (task_id,) = one.poll([(1,)]).task_ids
    monkeypatch.setattr(socket, "gethostname", no_host)

    (result,) = one.perpetual.fail([task_id], "bad row")

    assert result.done
    assert one.perpetual.completion(task_id).status == "failure"
    assert [each["part"] for each in logged(caplog, PART_FAILED)] == ["the record of fail"]
