"""Every key has an owner that deletes it, a bound, or a TTL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.recovery.old_states import OldStates
from celery_perpetual.store import keys as key_table
from tests.support import wait_until
from tests.support.key_owners import PERMANENT, PREFIX, UNITS, complaints, complaints_about_types, strays, table
from tests.support.lease_world import ITEM, LeaseWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support import Project


#: Fields of a unit's hash. A new one needs a bound, and its place here.
UNIT_FIELDS = {
    "spec", "slot", "anchor", "cursor", "inflight", "attempt", "backoff", "polled", "last", "trigger",
    "claim", "claimed", "killed", "banned", "lost", "passed",
    "waits", "nudged", "failures", "idle", "permit",
}  # fmt: skip

SOURCE = """
def rows(poll):
    # The second poll of each offers some that are in flight or have just ended, once more.
    return [Item((n,), key=n) for n in range(12)] + [("keyless key",), Item(("no key",), key=False)]

def fail(poll):
    raise ValueError("on purpose")

def hang(poll):
    time.sleep(0.3)

def many(poll):
    return Batch([Item((n,), key=f"large-{n}") for n in range(1200)], cursor=poll.poll_id)

options = PerpetualOptions(dedup_window=30, history=5, on_batch_done=app.signature("proj.ordinary", immutable=True))

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=rows, perpetual_options=options, bind=True, max_retries=2)
def fetch(self, row):
    ledger.record(self.request.id)
    if row == 1:
        raise ValueError("a task that fails")
    if row == 2 and not self.request.retries:
        raise self.retry(countdown=0)
    if row == 3:
        from celery.exceptions import Ignore
        raise Ignore
    if row == 4:
        from celery.exceptions import Reject
        raise Reject("not me", requeue=False)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=many, max_in_flight=2000)
def large(row): ...

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), expires=-5) for n in range(3)])
def batched(row): ...

seen = set()

def more(result):
    # A follow-up is found once, and has nothing behind it.
    return [Item(("followed",), key="followed")] if result == "first" else None

def fan_out(poll):
    fresh, _ = poll.tenant not in seen, seen.add(poll.tenant)
    return [Item(("first",), key="first")] if fresh else []

paced = PerpetualOptions(source_key="api", min_interval=0.01, low_water=1, max_interval=5)

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=fan_out, tenants=["acme", "shop"], after_success=more,
          preflight=lambda tenant: None, perpetual_options=paced)
def fan(what):
    return what

class Own(PerpetualTask):
    "Messages of its own, so that they are sent one by one."
    name = "proj.own"
    poll_every = 3600

    def next_batch(self):
        return [(n,) for n in range(3)]

    def run(self, row): ...

    def apply_async(self, args=None, kwargs=None, **options):
        return super().apply_async(args, kwargs, **options)

app.register_task(Own())

for name, function in {
    "empty": lambda: [], "failing": fail, "skipping": lambda: Skip("not now"), "pausing": lambda: Pause("no more"),
}.items():
    @app.task(name=f"proj.{name}", base=PerpetualTask, poll_every=0.3, next_batch=function)
    def other(): ...

@app.task(name="proj.timing:out", base=PerpetualTask, poll_every=3600, next_batch=hang, poll_timeout=0.1)
def timing(): ...

@app.task
def ordinary():
    ledger.record("ordinary", "ordinary")

app.conf.beat_schedule = {"ordinary": {"task": "proj.ordinary", "schedule": 0.5}}
"""


def polled(proj: Project) -> set[str]:
    return {unit for unit in UNITS if proj.redis.exists(f"{PREFIX}:polls:{unit}")}


def test_the_table_of_keys_is_complete() -> None:
    """The table names every key that the class of key names can make, and the permanent ones are among them."""
    names = key_table.Keys("P")
    # A channel is no key.
    others = {"prefix", "ends_channel"}
    properties = [name for name, value in vars(key_table.Keys).items() if isinstance(value, property)]
    made = {
        value.removeprefix("P:")
        for name, value in (*vars(names).items(), *((name, getattr(names, name)) for name in properties))
        if name not in others and not name.endswith("_prefix")
    }
    methods = {
        names.unit("{unit}"), names.polls("{unit}"), names.item_keys("{unit}"), names.recent("{unit}"),
        names.recent_before("{unit}"), names.failed("{unit}"), names.failures("{unit}"),
        names.tenants("{task}"), names.follow_ups("{unit}"), names.poll("{poll}"), names.ended("{poll}"), names.replaying("{poll}"), names.chunk("{poll}", "{chunk}"), names.done("{poll}", "{chunk}"),  # type: ignore[arg-type]
        names.completion("{id}"), names.queue("{id}"), names.receipt("{call}"), names.put_off("{entry}"), names.suspect("{id}"), names.owed_result("{id}"),
        names.held("{worker}"), names.worker("{worker}"), names.tags("{worker}"), f"{names.tombs_prefix}{{day}}", f"{names.tombs_prefix}of:{{hour}}",
        f"{names.source_prefix}{{key}}", names.preflight("preflight:{check}"),
    }  # fmt: skip

    assert made | {key.removeprefix("P:") for key in methods} == table().keys()
    assert PERMANENT.keys() <= table().keys()


def test_after_a_full_round_nothing_is_left_behind(project: Callable[..., Project]) -> None:
    """Polls of every outcome, tasks of every end, pauses: what is left then is bounded, and nothing else."""
    proj = project(SOURCE, perpetual_cycle_interval=0.2)
    beat = proj.beat().ready()
    worker = proj.worker(pool="threads", concurrency=4).ready()
    wait_until(lambda: len(polled(proj)) == len(UNITS), "every unit has been polled")
    assert complaints_about_types(proj.redis) == []
    proj.run_python(
        """
        import dataclasses
        from proj import *
        for name, fields in {"once": {"at": datetime.datetime.now(datetime.timezone.utc)}, "often": {"every": 0.2},
                             "cancelled": {"every": 0.2}, "deleted": {"every": 0.2}}.items():
            perpetual.routines.create("proj.ordinary", id=name, idempotency_key=f"key of {name}", **fields)
        perpetual.routines.cancel("cancelled")
        perpetual.routines.cancel("deleted")
        perpetual.routines.delete("deleted")
        perpetual.pause("proj.fetch", reason="for a moment")
        perpetual.resume("proj.fetch")
        perpetual.poll("proj.fetch")
        perpetual.poll("proj.timing:out")
        long_ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=2)
        paused = perpetual.pause("proj.skipping", until=datetime.datetime.now(datetime.timezone.utc)
                                 + datetime.timedelta(seconds=60))
        perpetual.pauses.pause(dataclasses.replace(paused, until=long_ago))
        """
    )
    paused = f"{PREFIX}:paused"
    wait_until(lambda: not proj.redis.hexists(paused, "perpetual:proj.skipping"), "a pause that is over is forgotten")
    wait_until(lambda: routine_runs(proj) >= {"once", "often"}, "routines have run")
    proj.run_python("from proj import *; perpetual.pause(everything=True, reason='the end of it')")
    wait_until(lambda: in_flight(proj.redis) == 0 and not proj.redis.exists(f"{PREFIX}:outbox"), "all has ended", 60)
    assert beat.terminate()[0] == 0
    assert worker.terminate()[0] == 0
    proj.run_python(
        "from proj import *; assert perpetual.resume(everything=True); assert perpetual.resume('proj.pausing')"
    )

    statuses = {json.loads(entry["data"])["status"] for _, entry in proj.redis.xrange(f"{PREFIX}:events")
                if entry["event"] == "poll"}  # fmt: skip
    assert {"enqueued", "empty", "skipped", "failed", "paused", "timed_out"} <= statuses
    assert complaints(proj.redis) == []
    assert strays(proj.redis) == {}
    assert proj.redis.zcard(f"{PREFIX}:units") == proj.redis.zcard(f"{PREFIX}:due") == len(UNITS)
    assert set().union(*(proj.redis.hkeys(f"{PREFIX}:u:{unit}") for unit in UNITS)) <= UNIT_FIELDS
    assert all(proj.redis.llen(f"{PREFIX}:polls:{unit}") <= 200 for unit in UNITS)
    assert proj.redis.llen(f"{PREFIX}:polls:perpetual:proj.fetch") <= 5


def routine_runs(proj: Project) -> set[str]:
    """Routines that a run of which has ended."""
    events = proj.redis.xrange(f"{PREFIX}:events")
    return {json.loads(entry["data"])["routine_id"] for _, entry in events if entry["event"] == "routine.run"}


def in_flight(client: redis.Redis) -> int:
    return sum(int(client.hget(key, "inflight") or 0) for key in client.scan_iter(f"{PREFIX}:u:*"))


def test_a_batch_that_cannot_be_published_does_not_hold_up_others(project: Callable[..., Project]) -> None:
    """Items that user code keeps from being sent are parked: no batch stays in the outbox, and a mended one is sent."""
    proj = project(
        """
        broken = {"proj.first", "proj.second"}

        class Own(PerpetualTask):
            abstract = True
            poll_every = 3600

            def next_batch(self):
                return [(1,)]

            def run(self, row): ...

            def apply_async(self, args=None, kwargs=None, **options):
                if self.name in broken:
                    raise RuntimeError("not now")
                return super().apply_async(args, kwargs, **options)

        for name in ("proj.first", "proj.second"):
            app.register_task(type("Task", (Own,), {"name": name})())
        """
    )
    code = """
        from proj import *
        first, second = perpetual.poll("proj.first"), perpetual.poll("proj.second")
        assert (first.status, second.status) == ("enqueued", "enqueued")
        broken.discard("proj.second")
        assert {each.task_id for each in perpetual.parked()} == {first.task_ids[0], second.task_ids[0]}
        perpetual.recover(second.task_ids[0])
        print(first.task_ids[0])
    """

    first = proj.run_python(code).strip()

    assert [json.loads(text)["headers"]["task"] for text in proj.redis.lrange("celery", 0, -1)] == ["proj.second"]
    assert proj.redis.exists(f"{PREFIX}:outbox") == 0
    assert proj.redis.hkeys(f"{PREFIX}:parked") == [first]


def test_the_check_sees_each_kind_of_leak(store_redis: redis.Redis) -> None:
    """An unknown key, one of a wrong type and one without a TTL are three complaints."""
    poll = "01a1f982-b69a-85b3-b3e6-1e92ffffffff"
    values: dict[str, Any] = {"leader": "a:1", f"p:{poll}": "text", f"d:{poll}:0": "bits", "nobody:knows": "me"}
    for key, value in values.items():
        store_redis.set(f"{PREFIX}:{key}", value)
    store_redis.hset(f"{PREFIX}:u:perpetual:shop%3Adeliver:acme", "slot", 1)
    store_redis.hset(f"{PREFIX}:counters", "odd", 1)
    store_redis.zadd(f"{PREFIX}:due", {UNITS[0]: 1})

    assert strays(store_redis) == {f"{PREFIX}:counters": {"odd"}}

    assert complaints(store_redis) == [
        f"{PREFIX}:d:{poll}:0 has no TTL, and nothing bounds it",
        f"{PREFIX}:leader has no TTL, and nothing bounds it",
        f"{PREFIX}:nobody:knows is not in the table of keys",
        f"{PREFIX}:p:{poll} is a string, the table says hash",
    ]


def test_the_state_of_a_task_whose_retry_is_gone(world: LeaseWorld) -> None:
    """It is forgotten when it is as old as a tombstone may be; a task that goes on, and an item, keep theirs."""
    for task_id in ("lost", "young", "running", ITEM):
        world.begun(task_id=task_id, copy="{}")
        if task_id == "running":
            assert world.run("note_successor", world.note_successor(task_id=task_id)) == 1
        else:
            world.run("release", world.release("wait", task_id=task_id))
        if task_id != "young":
            text = world.redis.hget(world.keys.states, task_id)
            world.redis.hset(world.keys.states, task_id, b"%064d" % 1 + text[64:])
    world.redis.hset(world.keys.copies, "lost", "{}")

    assert OldStates(world.store).forget() == 1

    assert set(world.redis.hkeys(world.keys.states)) == {b"young", b"running", ITEM.encode()}
    assert b"lost" not in world.redis.hkeys(world.keys.copies)


@pytest.fixture
def world(redis_url: str) -> Iterator[LeaseWorld]:
    world = LeaseWorld(redis_url)
    yield world
    world.store.close()
