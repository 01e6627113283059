"""A second `fail` or `cancel` of a task: it finishes what an operator has begun, and touches no other end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.completions import celery_results
from tests.support.contract import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app(result_backend="cache+memory://")


@pytest.fixture
def revoked(one: WatchedApp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids that Celery is asked to revoke."""
    ids: list[str] = []
    monkeypatch.setattr(one.app.control, "revoke", lambda task_id, **_: ids.append(task_id))
    return ids


def by_operator(one: WatchedApp, status: str, task_id: str, reason: str) -> bool:
    return one.perpetual.fail(task_id, reason) if status == "failure" else one.perpetual.cancel(task_id)


@pytest.mark.parametrize("status", ["failure", "revoked"])
def test_a_task_that_ended_by_itself_keeps_its_result(one: WatchedApp, revoked: list[str], status: str) -> None:
    """Also where Celery has none, as the task ignores it or it has expired: nothing is stored and nothing revoked."""
    (task_id,) = one.poll([(1,)]).task_ids
    finish(one.perpetual, task_id, status, ValueError("bad row") if status == "failure" else None)

    assert not by_operator(one, status, task_id, "of the operator")

    assert one.app.AsyncResult(task_id).state == "PENDING"
    assert revoked == []
    assert one.perpetual.completion(task_id).status == status


@pytest.mark.parametrize("status", ["failure", "revoked"])
def test_an_operator_who_died_in_between_is_made_up_for(
    one: WatchedApp, revoked: list[str], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """By the next call, with the reason of the first one; a third one finds nothing to do."""
    (task_id,) = one.poll([(1,)]).task_ids

    def dies(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(celery_results, "store_failure" if status == "failure" else "store_revoked", dies)
        with pytest.raises(SystemExit):
            by_operator(one, status, task_id, "first")
    assert one.app.AsyncResult(task_id).state == "PENDING"

    assert not by_operator(one, status, task_id, "second")

    result = one.app.AsyncResult(task_id)
    assert result.state == status.upper()
    assert str(result.result) == ("first" if status == "failure" else "cancelled")
    assert revoked == ([] if status == "failure" else [task_id])
    assert not by_operator(one, status, task_id, "third")
    assert revoked == ([] if status == "failure" else [task_id])
