"""Every way in which Celery lets a task end is announced once, on every pool and with both kinds of acknowledgement.

The tasks of a test are one batch in one worker, plus some chains and chords. What is compared was heard and read by a
plain Redis client: the messages of the channels, the records, the stream, the ledger, and Celery's own results.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.ends import EVERY_POOL, Listener, announced, batch, by_status, record
from tests.support.every_end import TASKS
from tests.support.every_end_of_others import OTHERS
from tests.support.every_end_table import HELD, NEW, End, canvas, items, others, table

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import CeleryProcess, Project


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
    source = f"{TASKS}{OTHERS}\nBATCH = {items(rows)!r}\n"
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
