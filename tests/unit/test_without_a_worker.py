"""Calls of a user's own tests, without a worker and a store: the check of all tasks, and bodies as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_perpetual import ContractError, Perpetual, PerpetualTask, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: No server answers here; a call that connects fails.
NOWHERE = "redis://127.0.0.1:1/0"


def nothing() -> None: ...


@pytest.fixture
def shop() -> Iterator[Callable[..., Celery]]:
    apps = []

    def make(**config: Any) -> Celery:
        app = Celery("shop", broker=NOWHERE, set_as_current=False)
        app.conf.update(config)
        Perpetual(app)
        app.task(base=PerpetualTask, name="shop.ship", poll_every=5, next_batch=list, shared=False)(nothing)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def perpetual_of(app: Celery) -> Perpetual:
    return app.perpetual  # type: ignore[attr-defined, no-any-return]


def test_all_tasks_are_checked_without_a_store(shop: Callable[..., Celery]) -> None:
    """The names of those that are right; every wrong one, and a wrong setting, is named."""
    assert perpetual_of(shop()).check_tasks() == ["shop.ship"]
    app = shop()
    for name, more in (("shop.slow", {"poll_every": "5s"}), ("shop.typo", {"poll_every": 5, "max_inflight": 3})):
        app.task(base=PerpetualTask, name=name, next_batch=list, shared=False, **more)(nothing)

    with pytest.raises(ContractError, match=r"(?s)shop\.slow .*poll_every.*shop\.typo .*did you mean max_in_flight"):
        perpetual_of(app).check_tasks()
    with pytest.raises(SettingsError, match="perpetual_leader_ttl"):
        perpetual_of(shop(perpetual_leader_ttl=1)).check_tasks()
    with pytest.raises(SettingsError, match=r"did you mean shop\.ship"):
        perpetual_of(shop(perpetual_disabled=["shop.shop"])).check_tasks()


def test_a_body_that_asks_about_itself_runs_as_a_function(shop: Callable[..., Celery]) -> None:
    """Annotations are checked and go nowhere, and there is no lease and no tenant; in no task an annotation is refused."""
    app = shop()
    perpetual = perpetual_of(app)

    @app.task(base=PerpetualTask, shared=False)
    def body(**facts: Any) -> Any:
        perpetual.annotate(**facts)
        return perpetual.lease_token(), perpetual.still_mine(), perpetual.tenant()

    assert body(score=1) == (None, False, None)
    with pytest.raises(ContractError, match="must be JSON"):
        body(score=object())
    with pytest.raises(ContractError, match="no task is running here"):
        perpetual.annotate(score=1)
