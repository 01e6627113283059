"""``perpetual_*`` settings of workers and leases: each one changes something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Perpetual
from celery_perpetual.embedded import free_port
from celery_perpetual.leases.execution import Execution
from celery_perpetual.leases.grants import HELD
from tests.support import wait_until
from tests.support.contract import begin, lose

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project


def test_setting_sweep_limit(shop: Callable[..., Perpetual]) -> None:
    """One pass takes no more leases of dead workers than ``perpetual_sweep_limit``."""
    perpetual = shop(lambda: [(n,) for n in range(5)], {"perpetual_sweep_limit": 2})

    swept = lose(perpetual, *perpetual.poll("deliver").task_ids)

    assert (swept.leases, len(perpetual.leases())) == (2, 3)


def test_setting_lease_ttl(shop: Callable[..., Perpetual]) -> None:
    """A worker that has reported counts as alive for ``perpetual_lease_ttl``."""
    perpetual = shop(lambda: [(1,)], {"perpetual_lease_ttl": 7})
    begin(perpetual, *perpetual.poll("deliver").task_ids)

    (lease,) = perpetual.leases()

    assert lease.deadline is not None
    assert (lease.deadline - lease.started_at).total_seconds() == 7


def test_setting_heartbeat_interval(project: Callable[..., Project]) -> None:
    """A worker reports every ``perpetual_heartbeat_interval``, however long a lease is."""
    proj = project("", perpetual_lease_ttl=3600, perpetual_heartbeat_interval=0.1)
    proj.worker(pool="solo").ready()
    (key,) = wait_until(lambda: proj.redis.keys("perpetual:w:*"), "the worker has reported")
    seen = set()

    def three_reports() -> bool:
        seen.add(proj.redis.hget(key, "at"))
        return len(seen) == 3

    wait_until(three_reports, "three reports")


@pytest.mark.parametrize(("leases", "token"), [("perpetual", "None"), ("all", "1")])
def test_setting_leases(project: Callable[..., Project], leases: str, token: str) -> None:
    """With ``all``, tasks that are not perpetual run under a lease too."""
    proj = project(
        """
        @app.task
        def ordinary():
            ledger.record(perpetual.lease_token())
        """,
        perpetual_leases=leases,
    )
    proj.worker(pool="solo").ready()
    proj.run_python("from proj import *; ordinary.delay()")

    assert [row.id for row in wait_until(proj.rows, "it ran")] == [token]


def test_setting_store_down(shop: Callable[..., Perpetual]) -> None:
    """A task that cannot ask for its lease runs without one, or is held until the store answers."""
    dead = {"perpetual_store_url": f"redis://127.0.0.1:{free_port()}/0", "perpetual_store_timeout": 0.2}
    alone = begin(shop(list, {**dead, "perpetual_store_down": "run"}), "an id")
    assert not alone.leased

    perpetual = shop(lambda: [(1,)], {"perpetual_store_down": "hold", "perpetual_store_timeout": 0.2})
    (task_id,) = perpetual.poll("deliver").task_ids
    perpetual.store.redis.client_pause(1000)
    held = Execution(task_id=task_id, nonce="first")
    assert perpetual.grants.start(perpetual.app.tasks["deliver"], held, {}) == HELD

    wait_until(lambda: not perpetual.grants.start(perpetual.app.tasks["deliver"], held, {}), "the store answers")
    assert held.leased
