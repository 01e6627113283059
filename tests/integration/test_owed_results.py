"""Celery's result of a task that has ended without a body of its own, while the result backend is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.app.task import Context
from celery.result import AsyncResult
from celery.states import READY_STATES

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.completions import owed_results, owing
from celery_perpetual.completions.celery_results import store_failure
from celery_perpetual.recovery.losses import end_as_expired
from celery_perpetual.store.commands.leases import lease_of
from celery_perpetual.store.commands.owed import keep_owed, list_owed, owed_result, remove_owed
from tests.support.contract import lose, nothing
from tests.support.owed import make_due

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from celery_perpetual.embedded import EmbeddedServer
    from celery_perpetual.store.connection import Store


pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own


@pytest.fixture
def backend(private_redis: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    """A server that only Celery's results are in."""
    return private_redis(appendonly=True)


@pytest.fixture
def perpetual(make_app: Callable[..., Celery], backend: EmbeddedServer) -> Iterator[Perpetual]:
    """An item is in flight for each row; a task that is lost fails."""
    app = make_app("shop", result_backend=backend.url)
    perpetual = Perpetual(app)
    app.task(
        name="deliver", base=PerpetualTask, shared=False, poll_every=3600, on_lost="fail",
        next_batch=lambda: [Item(key=n) for n in range(2)],
    )(nothing)  # fmt: skip
    yield perpetual
    perpetual.store.close()


ENDS: dict[str, Callable[[Perpetual, str], object]] = {
    "lost": lose,
    "expired": lambda perpetual, task_id: end_as_expired(perpetual.app, task_id, "deliver"),
    "failure": lambda perpetual, task_id: perpetual.fail(task_id, "bad address"),
    "revoked": lambda perpetual, task_id: perpetual.cancel(task_id),
}


def findings(perpetual: Perpetual) -> list[str]:
    return [each.evidence for each in perpetual.check() if each.kind == "results_unstored"]


@pytest.mark.parametrize("status", ENDS)
def test_the_result_is_there_when_the_backend_is_back(
    perpetual: Perpetual, backend: EmbeddedServer, status: str
) -> None:
    """The end is announced at once; a pass stores the result, and says until then why it cannot."""
    task_id, _ = perpetual.poll("deliver").task_ids
    backend.stop()

    ENDS[status](perpetual, task_id)

    completion = perpetual.completion(task_id)
    assert completion is not None
    assert completion.status == status
    assert len(findings(perpetual)) == 1
    make_due(perpetual)
    found = perpetual.cycle()
    assert found.ok
    assert list(found.put_off) == [task_id]
    (evidence,) = findings(perpetual)
    assert "1 result could not be stored in Celery's backend, the last one because " in evidence
    assert "refused" in evidence

    backend.start()
    make_due(perpetual)
    found = perpetual.cycle()

    assert (found.ok, found.put_off) == (True, {})
    result = AsyncResult(task_id, app=perpetual.app)
    assert result.state == ("REVOKED" if status in ("expired", "revoked") else "FAILURE")
    assert str(result.result) == (completion.error["message"] if completion.error else "expired")
    assert findings(perpetual) == []
    assert not perpetual.store.redis.keys(f"{perpetual.store.keys.owed}*")


def test_what_waits_behind_a_lost_task_fails_with_it(perpetual: Perpetual, backend: EmbeddedServer) -> None:
    """The rest of its chain ends at once, and each has its result when the backend is back."""
    first, last = "9f0c4a6e-0000-4000-8000-000000000001", "9f0c4a6e-0000-4000-8000-000000000002"
    task = perpetual.app.tasks["deliver"]
    request = Context({"id": first, "task": "deliver", "chain": [dict(task.si().set(task_id=last))]})
    backend.stop()

    store_failure(perpetual.app, task, first, ValueError("lost"), request)

    completion = perpetual.completion(last)
    assert completion is not None
    assert completion.status == "failure"
    backend.start()
    make_due(perpetual)
    assert perpetual.cycle().ok
    results = [AsyncResult(each, app=perpetual.app) for each in (first, last)]
    assert [(each.state, str(each.result)) for each in results] == [("FAILURE", "lost")] * 2


def test_a_lost_chain_is_counted_in_its_chord(perpetual: Perpetual, backend: EmbeddedServer) -> None:
    """The part of the chord is the last task of the chain: Celery does not count one that has failed before."""
    first, last, body = (f"9f0c4a6e-0000-4000-8000-00000000000{n}" for n in "312")
    app, task = perpetual.app, perpetual.app.tasks["deliver"]
    rest = dict(task.si().set(task_id=last, group_id="group", chord=dict(task.si().set(task_id=body))))
    app.backend.set_chord_size("group", 1)
    backend.stop()

    store_failure(app, task, first, ValueError("lost"), Context({"id": first, "task": "deliver", "chain": [rest]}))

    completion = perpetual.completion(last)
    assert completion is not None
    assert completion.status == "failure"
    backend.start()
    make_due(perpetual)
    assert perpetual.cycle().put_off == {}
    assert [AsyncResult(each, app=app).state for each in (first, last, body)] == ["FAILURE"] * 3


def test_a_task_that_has_run_again_keeps_its_result(perpetual: Perpetual, backend: EmbeddedServer) -> None:
    """And one that runs just now is left until it has ended."""
    ended, runs = perpetual.poll("deliver").task_ids
    redis, leases = perpetual.store.redis, perpetual.store.keys.leases
    backend.stop()
    lose(perpetual, ended, runs)
    backend.start()
    perpetual.app.backend.mark_as_done(ended, "of the second run")
    redis.hset(leases, runs, "w@host#1|nonce|0|0|0|1|1|3|fail||deliver")
    make_due(perpetual)

    assert list(perpetual.cycle().put_off) == [runs]

    assert AsyncResult(ended, app=perpetual.app).get() == "of the second run"
    assert AsyncResult(runs, app=perpetual.app).state == "PENDING"
    redis.hdel(leases, runs)
    make_due(perpetual)
    perpetual.cycle()
    assert AsyncResult(runs, app=perpetual.app).state == "FAILURE"


def test_a_task_that_ends_during_a_pass_keeps_its_result(
    perpetual: Perpetual, backend: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores its result, then its lease is released; a pass reads the lease first, and sees one or the other."""
    task_id, _ = perpetual.poll("deliver").task_ids
    backend.stop()
    lose(perpetual, task_id)
    backend.start()
    make_due(perpetual)
    perpetual.store.redis.hset(perpetual.store.keys.leases, task_id, "w@host#1|nonce|0|0|0|1|1|3|fail||deliver")

    def read_after_its_end(store: Store, task_id: str) -> object:
        perpetual.app.backend.mark_as_failure(task_id, ValueError("of the second run"))
        store.redis.hdel(store.keys.leases, task_id)
        return lease_of(store, task_id)

    monkeypatch.setattr(owed_results, "lease_of", read_after_its_end)
    assert perpetual.cycle().put_off == {}

    assert str(AsyncResult(task_id, app=perpetual.app).result) == "of the second run"


def test_what_another_pass_has_stored_is_not_reported(
    perpetual: Perpetual, backend: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two passes read the list at once, and one of them is later with each entry."""
    task_id, _ = perpetual.poll("deliver").task_ids
    backend.stop()
    lose(perpetual, task_id)
    backend.start()
    make_due(perpetual)

    def read_too_late(store: Store, task_id: str) -> str | None:
        remove_owed(store, task_id)
        return owed_result(store, task_id)

    monkeypatch.setattr(owed_results, "owed_result", read_too_late)
    assert perpetual.cycle().put_off == {}

    assert not [row for row in caplog.messages if "is not stored in the result backend" in row]


def test_a_rebuild_lists_no_result_that_was_stored_meanwhile(perpetual: Perpetual) -> None:
    """It has read the keys before: such an entry would be reported as given up."""
    keep_owed(perpetual.store, "kept", "a result", "away", first_ms=0, most=1, ttl_ms=60_000)
    redis, keys = perpetual.store.redis, perpetual.store.keys
    redis.delete(keys.owed)

    assert list_owed(perpetual.store, ["kept", "stored"]) == 1

    assert redis.zrange(keys.owed, 0, -1) == [b"kept"]


@pytest.mark.parametrize("status", ["lost", "revoked"])
def test_a_backend_that_only_reads_is_owed_still(perpetual: Perpetual, backend: EmbeddedServer, status: str) -> None:
    """A full one answers what it has, and refuses each result: nothing is dropped, and nothing is owed twice."""
    task_id, _ = perpetual.poll("deliver").task_ids
    client = perpetual.app.backend.client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    ENDS[status](perpetual, task_id)
    make_due(perpetual)

    assert list(perpetual.cycle().put_off) == [task_id]

    client.config_set("maxmemory", 0)
    make_due(perpetual)
    assert perpetual.cycle().put_off == {}
    assert AsyncResult(task_id, app=perpetual.app).state == ("FAILURE" if status == "lost" else "REVOKED")
    assert perpetual.store.redis.zcard(perpetual.store.keys.owed) == 0


@pytest.mark.parametrize("method", ["mark_as_failure", "mark_as_revoked"])
def test_a_backend_that_tries_for_ever_is_owed_too(
    perpetual: Perpetual, backend: EmbeddedServer, method: str
) -> None:  # fmt: skip
    """With `result_backend_always_retry` Celery raises an error of its own: its caller is not stopped by it either."""
    task_id = "9f0c4a6e-0000-4000-8000-000000000005"
    perpetual.app.conf.result_backend_always_retry = True
    backend.stop()

    getattr(perpetual.app.backend, method)(
        task_id, ValueError("lost"), request=Context({"id": task_id, "task": "deliver"})
    )

    assert perpetual.store.redis.zcard(perpetual.store.keys.owed) == 1
    backend.start()
    make_due(perpetual)
    perpetual.cycle()
    assert AsyncResult(task_id, app=perpetual.app).state in READY_STATES


def test_what_is_owed_is_bounded(
    perpetual: Perpetual, backend: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In number and in time; what is given up is reported."""
    first, second = perpetual.poll("deliver").task_ids
    redis, keys = perpetual.store.redis, perpetual.store.keys
    monkeypatch.setattr(owing, "MOST_OWED", 1)
    backend.stop()
    lose(perpetual, first, second)
    (kept,) = redis.zrange(keys.owed, 0, -1)
    given_up = ({first, second} - {kept.decode()}).pop()
    assert [row for row in caplog.messages if "is not stored in the result backend" in row and given_up in row]
    assert 0 < redis.pttl(keys.owed_result(kept.decode())) <= owing.OWED_MS

    redis.delete(keys.owed_result(kept.decode()))
    make_due(perpetual)

    assert (perpetual.cycle().put_off, redis.zcard(keys.owed)) == ({}, 0)
    assert [row for row in caplog.messages if "is not stored in the result backend" in row and kept.decode() in row]


def test_a_process_that_cannot_store_it_leaves_it_to_others(
    perpetual: Perpetual, backend: EmbeddedServer, make_app: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no result backend, or does not know the task, which has one of its own; `status` says which."""
    task_id, own_id = perpetual.poll("deliver").task_ids
    own = make_app("other", result_backend=backend.url).backend
    backend.stop()
    lose(perpetual, task_id)
    monkeypatch.setattr(perpetual.app.tasks["deliver"], "backend", own)
    lose(perpetual, own_id)
    backend.start()
    make_due(perpetual)
    elsewhere = Perpetual(make_app("shop"))

    assert elsewhere.cycle().put_off == {
        task_id: "PerpetualError: this process has no result backend",
        own_id: "PerpetualError: task 'deliver' has a result backend of its own, and this process does not know it",
    }

    elsewhere.store.close()
    make_due(perpetual)
    assert perpetual.cycle().put_off == {}
    assert [AsyncResult(each, app=perpetual.app).state for each in (task_id, own_id)] == ["FAILURE"] * 2
