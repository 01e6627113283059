"""Every way in which Celery lets a task end is announced once, on every pool and with both kinds of acknowledgement.

The tasks of a test are one batch in one worker, plus some chains and chords. What is compared was heard and read by a
plain Redis client: the messages of the channels, the records, the stream, the ledger, and Celery's own results.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import celery
import pytest

from tests.support import wait_until
from tests.support.ends import EVERY_POOL, Listener, announced, batch, by_status, record

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import CeleryProcess, Project

#: Celery fails a rejected task since 5.7, and one whose child left by SystemExit.
NEW = celery.VERSION >= (5, 7)

TASKS = """
import asyncio
import json
import signal
import sys
import threading

from celery import Task, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

LATE = bool(app.conf.task_acks_late)

def runs(task):
    ledger.record(task.request.id, "ran")
    return sum(row[:2] == (task.request.id, "ran") for row in ledger.rows())

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda poll: [
    Item((), key=name, **{"task": f"proj.{name}", **options}) for name, options in BATCH.items()
])
def find():
    pass

@app.task(bind=True)
def succeeds(self):
    perpetual.annotate(run=runs(self))
    return {"sum": 3}

@app.task(bind=True)
def raises(self):
    raise ValueError("as it was told")

@app.task(bind=True, typing=False)
def lacks_an_argument(self, needed):
    pass

@app.task(bind=True, soft_time_limit=1)
def takes_too_long(self):
    time.sleep(600)

@app.task(bind=True, soft_time_limit=1)
def notices_its_limit(self):
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        return "in time"

@app.task(bind=True, time_limit=1)
def hangs(self):
    time.sleep(600)

@app.task(bind=True, time_limit=1, soft_time_limit=1)
def hangs_doubly(self):
    time.sleep(600)

@app.task(bind=True, time_limit=1, acks_on_failure_or_timeout=False)
def hangs_once(self):
    if runs(self) == 1:
        time.sleep(600)

@app.task(bind=True, time_limit=1)
def passes_its_limit(self):
    # Longer than the limit.
    time.sleep(1.2)

@app.task(bind=True)
def retries(self):
    if runs(self) < 3:
        raise self.retry(countdown=0.1)

@app.task(bind=True, max_retries=1)
def gives_up(self):
    raise self.retry(countdown=0.1, exc=ValueError("again"))

@app.task(bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def gives_up_by_itself(self):
    raise ValueError("again")

@app.task(bind=True)
def cannot_retry(self):
    raise self.retry(countdown=0, serializer="runes")

@app.task(bind=True)
def ignores(self):
    raise Ignore

@app.task(bind=True)
def ignores_with_a_state(self):
    self.update_state(state="PROGRESS")
    raise Ignore("enough")

@app.task(bind=True)
def rejects(self):
    raise Reject("not mine", requeue=False)

@app.task(bind=True)
def sends_back(self):
    if runs(self) < 3:
        raise Reject("not now", requeue=True)

@app.task(bind=True)
def replaced(self):
    raise self.replace(succeeds.si())

@app.task(bind=True)
def replaced_by_failing(self):
    raise self.replace(raises.si())

@app.task(bind=True)
def replaced_by_chain(self):
    raise self.replace(chain(plain.si(), succeeds.si()))

@app.task(bind=True)
def replaced_by_failing_chain(self):
    raise self.replace(chain(plain_failing.si(), succeeds.si()))

@app.task(bind=True)
def replaced_by_group(self):
    raise self.replace(group(plain.si(), plain.si()))

@app.task(bind=True, ignore_result=True)
def stores_nothing(self):
    return 1

@app.task(bind=True, ignore_result=True)
def fails_and_stores_nothing(self):
    raise ValueError("as it was told")

@app.task(bind=True)
def reports(self):
    self.update_state(state="PROGRESS", meta={"done": 1})

@app.task(bind=True)
def not_serialisable(self):
    return object()

@app.task(bind=True)
def not_picklable(self):
    class Odd(Exception):
        lock = threading.Lock()
    raise Odd(threading.Lock())

class Refusing(RedisBackend):
    def mark_as_done(self, *args, **kwargs):
        raise RuntimeError("not today")

@app.task(bind=True, backend=Refusing(app=app, url=app.conf.result_backend))
def not_storable(self):
    return 1

class HookRaises(Task):
    def on_failure(self, *args, **kwargs):
        raise RuntimeError("the hook itself")

@app.task(bind=True, base=HookRaises)
def fails_in_its_hook(self):
    raise ValueError("as it was told")

@app.task(bind=True)
def killed(self):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True)
def exits(self):
    os._exit(3)

@app.task(bind=True, reject_on_worker_lost=True)
def killed_once(self):
    if runs(self) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0)
def retried_when_lost(self):
    if runs(self) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

class DiesAfterwards(Task):
    def on_success(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, base=DiesAfterwards)
def killed_after_success(self):
    return 1

@app.task(bind=True)
def leaves(self):
    sys.exit(3)

@app.task(bind=True)
def is_cancelled_inside(self):
    raise asyncio.CancelledError

@app.task(bind=True)
def is_terminated(self):
    runs(self)
    time.sleep(600)

@app.task(bind=True)
def is_killed_by_order(self):
    runs(self)
    time.sleep(600)

@app.task(bind=True)
def is_revoked_too_late(self):
    runs(self)
    while not os.path.exists("revoked"):
        time.sleep(0.05)

class BeforeStart(Task):
    def before_start(self, task_id, args, kwargs):
        raise {"ignores": Ignore("no"), "rejects": Reject("no", requeue=False), "raises": ValueError("no")}[
            self.name.rpartition("_")[2]
        ]

def never_started():
    ledger.record("never", "ran in spite of before_start")

for name in ("ignores", "rejects", "raises"):
    app.task(name=f"proj.start_{name}", base=BeforeStart)(never_started)

@app.task(bind=True, perpetual_options=PerpetualOptions(completions=False))
def is_silent(self):
    return 1

@app.task(bind=True, perpetual_options=PerpetualOptions(completions=False))
def is_silent_and_fails(self):
    raise ValueError("as it was told")

@app.task
def never():
    ledger.record("never", "ran")

# Nobody's but the user's.

@app.task
def plain(*args):
    pass

@app.task
def plain_failing(*args):
    raise ValueError("as it was told")

# Ours by their class, under ids of any form.

@app.task(base=PerpetualTask, acks_late=LATE)
def member(*args):
    return 1

@app.task(base=PerpetualTask, acks_late=LATE)
def failing(*args):
    raise ValueError("as it was told")

@app.task(base=PerpetualTask, acks_late=LATE)
def member_rejecting(*args):
    raise Reject("not mine", requeue=False)

@app.task(base=PerpetualTask, acks_late=LATE)
def member_leaving(*args):
    sys.exit(3)

@app.task(base=PerpetualTask, acks_late=LATE)
def member_killed(*args):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(base=PerpetualTask, acks_late=LATE, time_limit=1)
def member_hanging(*args):
    time.sleep(600)

#: By what a chain or chord begins with; each is sent where the pool can have such an end.
CANVAS = {
    "chain": lambda: chain(member.s("1"), failing.s("2"), member.s("3"), member.s("4")),
    "rejected chain": lambda: chain(member_rejecting.s("1"), member.s("2"), member.s("3")),
    "left chain": lambda: chain(member_leaving.s("1"), member.s("2")),
    "killed chain": lambda: chain(member_killed.s("1"), member.s("2")),
    "hanging chain": lambda: chain(member_hanging.s("1"), member.s("2")),
    "plain chain": lambda: chain(plain_failing.si("1"), plain.si("2")),
    "mixed chain": lambda: chain(plain_failing.si("1"), member.si("2")),
    "chord": lambda: chord([member.s("1"), member.s("2")], member.s("3")),
    "failed chord": lambda: chord([member.s("1"), failing.s("2")], member.s("3")),
    "left chord": lambda: chord([member.s("1"), member_leaving.s("2")], member.s("3")),
    "chord before others": lambda: chain(chord([failing.s("1"), member.s("2")], member.s("3")), member.s("4")),
    "chord behind another": lambda: chain(failing.si("1"), chord([member.si("2"), member.si("3")], member.si("4"))),
    "chord before a group": lambda: chord([member.s("1"), failing.s("2")], group(member.s("3"), member.s("4"))),
}

def tasks(signature):
    if signature.get("subtask_type") is None:
        return [signature]
    inside = signature["kwargs"]
    header = inside.get("header") or []
    parts = [*(inside.get("tasks") or []), *([header] if isinstance(header, dict) else header), inside.get("body")]
    return [each for part in parts if part for each in tasks(part)]

def send_others(names):
    sent = {}
    for name in names:
        whole = CANVAS[name]()
        whole.freeze()
        frozen = tasks(json.loads(json.dumps(whole)))
        sent |= {f"{name} {each['args'][-1]}": each["options"]["task_id"] for each in frozen}
        whole.apply_async()
    sent["by class"] = member.apply_async(task_id="any-form").id
    sent["by header"] = plain.apply_async(task_id="by-header", headers={"perpetual": 1}).id
    sent["by header, expired"] = plain.apply_async(headers={"perpetual": 1}, expires=-1).id
    sent["plain"] = plain.delay().id
    sent["plain, expired"] = plain.apply_async(expires=-1).id
    sent["plain failing"] = plain_failing.delay().id
    return sent
"""


class End(NamedTuple):
    """How one row of the table ends."""

    status: str | None
    """Of the completion; None where nothing may be announced."""
    stored: str | None
    """Celery's own state when the completion is heard; None where there is none."""
    error: str | None = None
    """Type of the completion's error."""
    runs: int | None = None


SUCCESS, IGNORED = End("success", "SUCCESS"), End("ignored", None)
FAILURE = End("failure", "FAILURE", "ValueError")
REJECTED = End("failure", "FAILURE", "Reject") if NEW else End("rejected", "FAILURE", "Reject")
REFUSED = End("rejected", "FAILURE", "InvalidTaskError")
UNREADABLE = End("lost", "FAILURE", "DecodeError")

#: Rows of every pool. Held messages are altered by the test before a worker sees them.
EVERYWHERE = {
    "succeeds": SUCCESS._replace(runs=1),
    "raises": FAILURE,
    "lacks_an_argument": End("failure", "FAILURE", "TypeError"),
    "retries": SUCCESS._replace(runs=3),
    "gives_up": FAILURE,
    "gives_up_by_itself": FAILURE,
    "cannot_retry": REJECTED,
    "ignores": IGNORED,
    "ignores_with_a_state": End("ignored", "PROGRESS"),
    "rejects": REJECTED,
    "replaced": SUCCESS._replace(runs=1),
    "replaced_by_failing": FAILURE,
    "replaced_by_chain": SUCCESS._replace(runs=1),
    "replaced_by_failing_chain": FAILURE,
    "replaced_by_group": SUCCESS,
    "stores_nothing": End("success", None),
    "fails_and_stores_nothing": End("failure", None, "ValueError"),
    "reports": SUCCESS,
    "not_serialisable": End("failure", "FAILURE", "EncodeError"),
    "not_picklable": End("failure", "FAILURE", "Odd"),
    "not_storable": End("failure", "FAILURE", "RuntimeError"),
    "fails_in_its_hook": End("failure", "FAILURE", "RuntimeError"),
    "start_ignores": IGNORED,
    "start_rejects": REJECTED,
    "start_raises": FAILURE,
    "is_silent": End(None, "SUCCESS"),
    "is_silent_and_fails": End(None, "FAILURE"),
    "unregistered": End("failure", "FAILURE", "KeyError"),
}
HELD = {
    "comes_twice": SUCCESS._replace(runs=2),
    "revoked": End("revoked", "REVOKED"),
    "expired": End("expired", "REVOKED"),
    "expires_before_its_eta": End("expired", "REVOKED"),
    "undecodable": UNREADABLE,
    "of_unknown_compression": End("lost", "FAILURE"),
    "of_foreign_content": End("rejected", "FAILURE", "ContentDisallowed"),
    "nameless": End("rejected", "FAILURE", "TaskLost"),
    "with_a_wrong_eta": REFUSED,
    "in_two_parts": REFUSED,
    "with_a_wrong_embed": REFUSED,
    "with_an_eta_beyond_time": REFUSED,
    "without_a_mapping": End("lost", "FAILURE", "TaskLost"),
}
ANY_MESSAGE = {"comes_twice": "succeeds", "revoked": "never", "expired": "never"}
#: Where each task has a process of its own.
LOST_CHILD = End("failure", "FAILURE", "WorkerLostError")
PREFORK = {
    "takes_too_long": End("failure", "FAILURE", "SoftTimeLimitExceeded"),
    "notices_its_limit": SUCCESS,
    "hangs": End("failure", "FAILURE", "TimeLimitExceeded"),
    "hangs_doubly": End("failure", "FAILURE"),
    "killed": LOST_CHILD,
    "exits": LOST_CHILD,
    "leaves": LOST_CHILD if NEW else End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("failure", "FAILURE", "CancelledError") if NEW else End("lost", "FAILURE", "TaskLost"),
    "is_terminated": End("revoked", "REVOKED", runs=1),
    "is_killed_by_order": End("revoked", "REVOKED", runs=1),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}
THREADS = {
    "passes_its_limit": SUCCESS,
    "leaves": End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("lost", "FAILURE", "TaskLost"),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}
GEVENT = {
    "hangs": End("failure", "FAILURE", "TimeLimitExceeded"),
    "leaves": End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("lost", "FAILURE", "TaskLost"),
    "is_terminated": End("revoked", "REVOKED", runs=1),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}
SOLO = {"passes_its_limit": SUCCESS}
OF_POOL = {"prefork": PREFORK, "threads": THREADS, "gevent": GEVENT, "solo": SOLO}
OTHERS = {
    "by class": SUCCESS,
    "by header": SUCCESS,
    "by header, expired": End("expired", "REVOKED"),
    "plain": End(None, "SUCCESS"),
    "plain, expired": End(None, "REVOKED"),
    "plain failing": End(None, "FAILURE"),
}
#: Chains and chords, by the number of each task in it.
CANVAS = {
    "chain": [SUCCESS, FAILURE, FAILURE, FAILURE],
    "rejected chain": [REJECTED, *[End("failure", "FAILURE", "Reject")] * 2],
    "plain chain": [End(None, "FAILURE")] * 2,
    "mixed chain": [End(None, "FAILURE"), FAILURE],
    "chord": [SUCCESS] * 3,
    "failed chord": [SUCCESS, FAILURE, End("failure", "FAILURE", "ChordError")],
    "chord before others": [FAILURE, SUCCESS, *[End("failure", "FAILURE", "ChordError")] * 2],
    "chord behind another": [FAILURE] * 4,
    "chord before a group": [SUCCESS, FAILURE, End("failure", "FAILURE"), End("failure", "FAILURE")],
}


def canvas(pool: str) -> dict[str, list[End]]:
    """The chains and chords of a pool."""
    found = dict(CANVAS)
    ends = OF_POOL[pool]
    for name, kind in {"left": "leaves", "killed": "killed", "hanging": "hangs"}.items():
        if kind in ends:
            found[f"{name} chain"] = [ends[kind], End("failure", "FAILURE")]
    if "leaves" in ends:
        found["left chord"] = [SUCCESS, ends["leaves"], End("failure", "FAILURE")]
    return found


def others(pool: str) -> dict[str, End]:
    """What is sent beside the batch."""
    numbered = {f"{name} {at}": end for name, ends in canvas(pool).items() for at, end in enumerate(ends, 1)}
    return {**OTHERS, **numbered}


def table(pool: str, *, late: bool) -> dict[str, End]:
    """The rows that a worker of this kind can have."""
    rows = {**EVERYWHERE, **HELD, **OF_POOL[pool]}
    rows["sends_back"] = SUCCESS._replace(runs=3) if late else End("rejected", "FAILURE", "Reject", 1)
    if pool == "solo":
        del rows["fails_in_its_hook"]  # takes the whole worker along
    if pool == "prefork" and late:
        rows |= {"hangs_once": SUCCESS._replace(runs=2), "killed_once": SUCCESS._replace(runs=2)}
    if pool == "prefork" and NEW:
        rows["retried_when_lost"] = SUCCESS._replace(runs=2)
    if pool == "prefork" and not NEW:  # Celery 5.7 tells nobody
        rows["killed_after_success"] = SUCCESS
    return rows


def items(rows: dict[str, End]) -> dict[str, dict[str, Any]]:
    """The options of the batch's items."""
    held = {name: {"queue": "held", "task": f"proj.{ANY_MESSAGE.get(name, 'never')}"} for name in HELD}
    return {name: held.get(name, {}) for name in rows}


def altered(name: str, message: dict[str, Any]) -> dict[str, Any]:
    """A held message as a worker shall see it."""
    headers, now = message["headers"], datetime.now(timezone.utc)
    bodies = {
        "undecodable": b'[[], {"half": ',
        "in_two_parts": b"[[], {}]",
        "with_a_wrong_embed": b'[[], {}, "chain"]',
        "without_a_mapping": b'[[], ["no", "mapping"], {}]',
    }
    if name in bodies:
        message["body"] = b64encode(bodies[name]).decode()
    elif name == "of_foreign_content":
        message |= {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    elif name == "of_unknown_compression":
        headers["compression"] = "runes"
    elif name == "nameless":
        del headers["task"]
    elif name == "with_a_wrong_eta":
        headers["eta"] = "soon"
    elif name == "with_an_eta_beyond_time":
        headers["eta"] = "9999-12-31T23:59:59-14:00"
    elif name == "expired":
        headers["expires"] = (now - timedelta(seconds=1)).isoformat()
    elif name == "expires_before_its_eta":
        headers["expires"] = (now + timedelta(seconds=0.5)).isoformat()
        headers["eta"] = (now + timedelta(seconds=1)).isoformat()
    return message


def release(client: redis.Redis, ids: dict[str, str]) -> None:
    """Alter the held messages and let the worker have them."""
    names = {task_id: name for name, task_id in ids.items()}
    texts = client.lrange("held", 0, -1)
    assert len(texts) == len(HELD)
    for text in texts:
        message = json.loads(text)
        name = names[message["headers"]["id"]]
        for _ in range(2 if name == "comes_twice" else 1):
            client.lpush("celery", json.dumps(altered(name, message)))


REVOKE = """
    import json, proj, sys
    ids, running = json.loads({ids!r}), {running!r}
    def control(name, **options):
        if name in ids:
            assert proj.app.control.revoke(ids[name], reply=True, timeout=10, limit=1, **options), name
    control("revoked")
    control("is_terminated", terminate=True)
    control("is_killed_by_order", terminate=True, signal="SIGKILL")
    control("is_revoked_too_late", terminate=running)
"""


GET = """
    import proj
    for task_id in {ids!r}:
        try:
            proj.app.AsyncResult(task_id).get(timeout=10)
        except proj.app.backend.TimeoutError:
            print("hung")
        except Exception:
            print("raised")
"""


def run(proj: Project, worker: CeleryProcess, pool: str, rows: dict[str, End]) -> tuple[str, dict[str, str]]:
    """Let everything happen; return the poll's id and the ids of all tasks by name."""
    poll_id, ids, beside = json.loads(
        proj.run_python(
            f"""
            import json, proj
            outcome = proj.perpetual.poll("proj.find")
            ids = dict(zip(proj.BATCH, outcome.task_ids, strict=True))
            print(json.dumps([outcome.poll_id, ids, proj.send_others({list(canvas(pool))!r})]))
            """
        )
    )
    worker.ready()
    endless = {ids[name] for name in ("is_terminated", "is_killed_by_order", "is_revoked_too_late") if name in rows}
    wait_until(lambda: {row.id for row in proj.rows("ran")} >= endless, "the endless tasks run")
    # Where it is not supported, Celery says so in its log and goes on.
    proj.run_python(REVOKE.format(ids=json.dumps(ids), running=pool == "threads"))
    proj.write("revoked", "")
    release(proj.redis, ids)
    voiced = {name: beside[name] for name, end in others(pool).items() if end.status is not None}

    def unended() -> set[str]:
        done = {name for at, name in enumerate(ids) if proj.redis.getbit(f"perpetual:d:{poll_id}:0", at)}
        left = set() if batch(proj.redis, poll_id).get("left") == "0" else ids.keys() - done
        return left | {name for name, each in voiced.items() if record(proj.redis, each) is None}

    try:
        wait_until(lambda: not unended(), "every task has ended", timeout=45)
    except AssertionError:
        pytest.fail(f"without an end: {unended()}")
    return poll_id, {**ids, **beside}


def seen(listener: Listener, client: redis.Redis, proj: Project, task_id: str, end: End) -> End:
    """How a task ended, as it was heard on its channel."""
    (heard,) = listener.of(task_id)
    completion = heard.completion
    assert completion["final"] is True
    assert heard.record == heard.text
    assert heard.queue == [heard.text]
    assert client.get(f"perpetual:completion:{task_id}") == heard.text
    error = completion["error"] and completion["error"]["type"]
    runs = sum(row.id == task_id for row in proj.rows("ran"))
    # Before 5.7 Celery revokes the group behind a failed chord while it fails it: either state may be the last.
    stored = "FAILURE" if not NEW and end.stored == "FAILURE" and heard.stored == "REVOKED" else heard.stored
    return End(completion["status"], stored, error if end.error or not error else None, end.runs and runs)


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@EVERY_POOL
def test_every_end_is_announced_once(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, pool: str, late: bool
) -> None:
    """Each row of the table ends as it should: one message, after the record, after Celery's result; books closed."""
    rows = table(pool, late=late)
    source = f"{TASKS}\nBATCH = {items(rows)!r}\n"
    proj = project(source, result_backend=redis_url, task_acks_late=late)
    expected = {**rows, **others(pool)}
    with Listener(redis_url) as listener:
        worker = proj.worker(pool=pool, concurrency=4)
        poll_id, ids = run(proj, worker, pool, rows)
        worker.terminate()
        listener.drain()

        voiced = {name: end for name, end in expected.items() if end.status is not None}
        assert {name: len(listener.of(ids[name])) for name in voiced} == dict.fromkeys(voiced, 1)
        found = {name: seen(listener, store_redis, proj, ids[name], end) for name, end in voiced.items()}
        assert found == voiced
        once = Counter({ids[name]: 1 for name in voiced})
        assert listener.everybody() == once
        assert announced(store_redis) == once

    told = [ids[name] for name, end in rows.items() if end.status in ("lost", "rejected")]
    assert proj.run_python(GET.format(ids=told)).split() == ["raised"] * len(told)
    silent = [ids[name] for name, end in expected.items() if end.status is None]
    assert [key for each in silent for key in store_redis.keys(f"perpetual:*{each}*")] == []
    counters = batch(store_redis, poll_id)
    statuses = Counter(end.status or ("success" if end.stored == "SUCCESS" else "failure") for end in rows.values())
    assert by_status(counters) == statuses
    assert (counters["n"], counters["left"]) == (str(len(rows)), "0")
    assert store_redis.hget("perpetual:u:perpetual:proj.find", "inflight") == "0"
    assert store_redis.keys("perpetual:keys:*") + store_redis.keys("perpetual:[id]:*") == []
    assert proj.rows("ran in spite of before_start") == []
