"""Tenants: a unit for each, which come and go while beat runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Perpetual, PerpetualTask, UnknownUnit
from celery_perpetual.beat.orphans import AGE_MS, Orphans
from celery_perpetual.events import TENANTS_CHANGED, TENANTS_FAILED, TENANTS_REFUSED
from celery_perpetual.tasks.discovery import discover
from tests.support import wait_until
from tests.support.console import Console
from tests.support.contract import finish, nothing
from tests.support.stream_events import events, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

    from tests.support import Project

PAGE = (Path(__file__).parents[2] / "docs" / "tenants.md").read_text(encoding="utf-8")

# Tenants are what a file says; each unit counts its polls in its cursor.
TENANTS = """
import json

def tenants():
    with open("tenants") as file:
        text = file.read()
    if text == "hang":
        time.sleep(3600)
    return json.loads(text)

def due(poll):
    ledger.record(json.dumps(poll.tenant), poll.task)
    count = (poll.cursor or 0) + 1
    return Batch([Item((count,), key=False)] if count == 1 else [], cursor=count)

every = dict(base=PerpetualTask, poll_every=0.2, next_batch=due, tenants=tenants)

@app.task(**every, perpetual_options=PerpetualOptions(tenants_ttl=0.3))
def here(count):
    assert perpetual.tenant_context().get("who", perpetual.tenant) == perpetual.tenant()
    ledger.record(json.dumps(perpetual.tenant()), "ran")

@app.task(**every, perpetual_options=PerpetualOptions(poll_in="worker", tenants_ttl=0.3))
def there(count):
    ledger.record(json.dumps(perpetual.tenant()), "ran")
"""

UMBRELLA = {"key": "umb:rella %ü", "url": "https://umbrella.example"}


def test_tenants_come_and_go_while_beat_runs(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Both where beat polls and where workers do; a function that fails keeps the last list, also across beats."""
    proj = project(TENANTS, perpetual_leader_ttl=3)
    proj.write("tenants", json.dumps(["acme", UMBRELLA]))
    proj.worker().ready()
    beat = proj.beat(name="beat").ready()

    def polled(*tenants: Any) -> bool:
        """Whether just these are polled from now on, in both tasks."""
        before = len(proj.rows())
        expected = {(json.dumps(tenant), f"proj.{task}") for tenant in tenants for task in ("here", "there")}

        def is_so() -> bool:
            rows = [(row.id, row.what) for row in proj.rows()[before:] if row.what != "ran"]
            return len(rows) > 4 * len(expected) and set(rows[-3 * len(expected) :]) == expected

        return bool(wait_until(is_so, f"{tenants} are polled", timeout=20))

    assert polled("acme", UMBRELLA)
    ran = wait_until(lambda: len(rows := proj.rows("ran")) == 4 and rows, "the first item of each unit has run")
    assert sorted(row.id for row in ran) == sorted([json.dumps("acme"), json.dumps(UMBRELLA)] * 2)
    ends = wait_until(lambda: len(found := events(store_redis, "completion")) >= 4 and found, "the ends are announced")
    assert {end["tenant"] for end in ends if end["key"] is None and end["poll_id"]} == {"acme", UMBRELLA["key"]}
    assert {(outcome.unit, outcome.data["tenant"]) for outcome in poll_events(store_redis, "proj.here")} == {
        ("perpetual:proj.here:acme", "acme"), ("perpetual:proj.here:umb%3Arella %25ü", UMBRELLA["key"])
    }  # fmt: skip

    proj.write("tenants", json.dumps(["acme", 7]))
    beat.wait_for_event(TENANTS_CHANGED)
    assert polled("acme", 7)

    with Console(proj) as console:
        units = {(unit["task"], unit["tenant"]): unit["state"] for unit in console("perpetual.units()")}
        assert {tenant: state for (task, tenant), state in units.items() if task == "proj.here"} == {
            "acme": "active", "7": "active", UMBRELLA["key"]: "orphaned"
        }  # fmt: skip

        proj.write("tenants", json.dumps(["acme", 7, None, "7"]))
        beat.wait_for_event(TENANTS_REFUSED)
        proj.write("tenants", "{")
        beat.wait_for_event(TENANTS_FAILED)
        assert polled("acme", 7)
        alert = events(store_redis, TENANTS_FAILED.name)[-1]
        assert (alert["kept"], alert["error"].partition(":")[0]) == (2, "JSONDecodeError")

        proj.write("tenants", "hang")
        assert beat.terminate()[0] == 0
        count = console("perpetual.cursor('proj.here', 7)")
        beat = proj.beat(name="beat").ready()
        assert polled("acme", 7)
        assert console("perpetual.cursor('proj.here', 7)") > count > 0

        console("perpetual.pause(tenant=7, reason='credentials')")
        assert polled("acme")
        states = "[(u.state, u.reason) for u in perpetual.units() if u.tenant == '7']"
        assert console(states) == [["paused", "credentials"]] * 2
        assert console("perpetual.poll('proj.here', 7).status") == "empty"
        assert console("perpetual.resume(tenant=7)") is True
        assert polled("acme", 7)


@pytest.fixture
def shop_of(make_app: Callable[..., Celery]) -> Iterator[Callable[..., Perpetual]]:
    """A wired app with a perpetual task ``deliver`` that has tenants."""
    made = []

    def make(tenants: Any, next_batch: Any) -> Perpetual:
        perpetual = Perpetual(make_app("shop", beat_scheduler="perpetual"))
        options = {"poll_every": 3600, "next_batch": next_batch, "tenants": tenants}
        perpetual.app.task(name="deliver", base=PerpetualTask, shared=False, **options)(nothing)
        made.append(perpetual)
        return perpetual

    yield make
    for perpetual in made:
        perpetual.store.close()


def raised(kind: type[Exception], operation: Callable[..., Any], *args: Any) -> str:
    """The text of the error of a call."""
    with pytest.raises(kind) as error:
        operation(*args)
    return str(error.value)


def pauses(perpetual: Perpetual) -> list[dict[str, Any]]:
    """The data of the events of pauses."""
    entries = perpetual.store.redis.xrange(perpetual.store.keys.events)
    return [json.loads(fields[b"data"]) for _, fields in entries if fields[b"event"] == b"pause"]


def test_operations_name_the_tenant(shop_of: Callable[..., Perpetual]) -> None:
    """Each unit has its own cursor, history and pause; a wrong or missing tenant is refused with the right ones."""
    perpetual = shop_of(["acme", 7], lambda poll: [(poll.tenant,)])
    perpetual.set_cursor("deliver", 3, tenant="acme")
    assert (perpetual.cursor("deliver", "acme"), perpetual.cursor("deliver", 7)) == (3, None)
    (task_id,) = perpetual.poll("deliver", 7).task_ids
    finish(perpetual, task_id)
    assert perpetual.completion(task_id).tenant == "7"
    assert [len(perpetual.polls("deliver", tenant)) for tenant in ("acme", "7")] == [0, 1]
    assert perpetual.preview("deliver", "acme").items[0]["args"] == ("acme",)
    assert perpetual.why("deliver", "acme").unit.tenant == "acme"
    assert perpetual.nudge("deliver", "acme") is False

    refused = {
        ("acmee",): "task deliver has no tenant 'acmee'; did you mean acme?",
        (): "task deliver has tenants, so a tenant must be given; known are: acme, 7",
        (1.5,): "task deliver has no tenant '1.5': a tenant must be a str, an int, or a dict",
    }
    for given, message in refused.items():
        for operation in (perpetual.poll, perpetual.polls, perpetual.why, perpetual.cursor, perpetual.preview):
            assert message in raised(UnknownUnit, operation, "deliver", *given)
    assert "name a task, a tenant or both" in raised(ContractError, perpetual.pause)
    assert "name a task, a tenant or both" in raised(ContractError, lambda: perpetual.pause("deliver", everything=True))


def test_each_scope_of_a_pause_ends_by_itself(shop_of: Callable[..., Perpetual]) -> None:
    """A unit is paused by itself, with its task, with its tenant, or with everything; each pause ends by itself."""
    perpetual = shop_of(["acme", "umbrella"], list)

    def paused() -> list[str]:
        return [f"{unit.tenant} {unit.reason}" for unit in perpetual.units() if unit.state == "paused"]

    perpetual.pause("deliver", "acme", reason="one")
    assert paused() == ["acme one"]
    perpetual.pause("deliver", reason="task")
    assert paused() == ["acme task", "umbrella task"]
    perpetual.pause(tenant="umbrella", reason="tenant")
    assert paused() == ["acme task", "umbrella tenant"]
    assert perpetual.resume("deliver") is True
    assert perpetual.resume("deliver", "umbrella") is False
    assert paused() == ["acme one", "umbrella tenant"]
    assert perpetual.resume(tenant="umbrella") is True
    assert paused() == ["acme one"]
    assert [(data["scope"], data.get("unit"), data.get("tenant")) for data in pauses(perpetual)] == [
        ("perpetual:deliver:acme", "perpetual:deliver:acme", None), ("perpetual:deliver", "perpetual:deliver", None),
        ("tenant:umbrella", None, "umbrella"),
    ]  # fmt: skip


def test_a_function_is_called_here_where_no_beat_leads(shop_of: Callable[..., Perpetual]) -> None:
    """An error of the tenants function is part of the error; check reports it."""

    def fail() -> list[str]:
        raise OSError("no database")

    perpetual = shop_of(fail, list)

    assert "its tenants function raised OSError: no database" in raised(UnknownUnit, perpetual.poll, "deliver", "acme")
    assert perpetual.units() == []
    assert [finding.evidence for finding in perpetual.check() if finding.level == "error"] == [
        "task deliver: its tenants function raised OSError: no database"
    ]


def test_a_departed_tenant_is_forgotten_after_a_week(shop_of: Callable[..., Perpetual]) -> None:
    """With its cursor and its pause; meanwhile an operator can look at it, and it is not polled."""
    perpetual = shop_of(["acme", "umbrella"], lambda poll: [(poll.tenant,)])
    store = perpetual.store
    for tenant in ("acme", "umbrella"):
        finish(perpetual, perpetual.poll("deliver", tenant).task_ids[0])
        perpetual.set_cursor("deliver", 3, tenant=tenant)
        perpetual.pause("deliver", tenant, reason="its API is down")
    perpetual.app.tasks["deliver"].tenants = ["acme"]

    assert [(unit.tenant, unit.state) for unit in perpetual.units()] == [("acme", "paused"), ("umbrella", "orphaned")]
    assert perpetual.cursor("deliver", "umbrella") == 3
    assert len(perpetual.polls("deliver", "umbrella")) == 1
    assert "has no tenant 'umbrella'" in raised(UnknownUnit, perpetual.poll, "deliver", "umbrella")

    orphans = Orphans(store, lambda: discover(perpetual.app))
    assert orphans.drop() == 0
    for name in store.redis.zrange(store.keys.units, 0, -1):
        store.redis.zincrby(store.keys.units, -AGE_MS - 1000, name)
    assert orphans.drop() == 1
    assert [unit.tenant for unit in perpetual.units()] == ["acme"]
    assert store.redis.smembers(store.keys.cursors) == {b"perpetual:deliver:acme"}
    assert store.redis.hkeys(store.keys.paused) == [b"perpetual:deliver:acme"]
    assert not [key for key in store.redis.keys("*umbrella*") if store.redis.ttl(key) < 0]
    assert perpetual.cursor("deliver", "acme") == 3


def test_the_program_of_the_page_runs(shop_of: Callable[..., Perpetual]) -> None:
    """The code of ``docs/tenants.md``, block by block."""
    url = shop_of(["acme"], list).app.conf.broker_url
    program: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block.replace("redis://", url) if "Celery(" in block else block, program)
    perpetual = program["perpetual"]

    assert [perpetual.poll(program["deliver"], tenant).count for tenant in ("acme", "umbrella")] == [2, 1]
    looked_up: list[str] = []
    context = perpetual.tenant_context("acme")
    assert program["account_of"]("acme") == "account of acme"
    assert context.get("account", lambda: looked_up.append("again")) == "account of acme"
    assert looked_up == []
    perpetual.store.close()
    perpetual.app.close()
