"""A part of the store's data is lost: leases are gone, and the states beside them are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.leases.execution import Execution
from celery_perpetual.ledger.ids import item_address, item_index
from celery_perpetual.recovery.sweep import Sweep
from celery_perpetual.store.commands.leases import state_of
from celery_perpetual.store.scripts import script
from tests.support import wait_until
from tests.support.contract import begin, nothing, report

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

FAST = {"perpetual_lease_ttl": 1, "perpetual_heartbeat_interval": 0.2, "perpetual_cycle_interval": 0.2}


def send_again_by_hand(perpetual: Perpetual, execution: Execution) -> None:
    """As the body of a task does that sends itself once more."""
    where = item_address(execution.task_id)
    assert where is not None
    script("note_successor")(
        perpetual.store, batch=perpetual.store.keys.poll(where.poll_id), id=execution.task_id, nonce=execution.nonce,
        cause="back", copy="", index=item_index(execution.task_id), destination="",
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["back", "came"])
def test_an_item_that_has_sent_itself_again_is_missed(
    make_app: Callable[..., Celery], store_redis: redis.Redis, flag: str
) -> None:
    """Its worker is gone with its lease, and so is its message: it is resent."""
    perpetual = Perpetual(make_app("shop", **FAST))
    perpetual.app.task(
        name="deliver", base=PerpetualTask, shared=False, poll_every=3600, next_batch=lambda: [Item(key=1)]
    )(nothing)  # fmt: skip
    (task_id,) = perpetual.poll("deliver").task_ids
    send_again_by_hand(perpetual, begin(perpetual, task_id))
    if flag == "came":
        assert not begin(perpetual, task_id).leased
    state = state_of(perpetual.store, task_id)
    assert state is not None
    assert state.flag == flag
    store_redis.delete("perpetual:leases", "celery")
    sweep, numbers = Sweep(perpetual.app, perpetual.grants), iter(range(1, 1000))

    def is_back() -> bool:
        report(perpetual, next(numbers))
        sweep.once()
        return bool(store_redis.llen("celery"))

    wait_until(is_back, "it is in its queue again", timeout=20)
    perpetual.store.close()
