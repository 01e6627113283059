"""Processes that die while their task retries or replaces itself: around the publish of the message that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis

from celery_perpetual.events import END_DELAYED, SUCCESSOR_LEFT
from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, PREFIX, SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

#: How a task hands its id on. "early" dies before the message is published, the others when it is in the broker.
WAYS = ("retry", "retry early", "replace", "replace early", "chain", "chain early", "chord")

SOURCE = f"""
import signal
from celery import chain, chord, signals

WAYS = {WAYS}

def die_once(way, early):
    if way and ("early" in way) == early and not os.path.exists(f"died {{way}}"):
        open(f"died {{way}}", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

on_its_way = []

@signals.before_task_publish.connect
def before(**_):
    die_once(on_its_way and on_its_way[0], True)

@signals.after_task_publish.connect
def after(**_):
    die_once(on_its_way and on_its_way[0], False)

@app.task
def step():
    pass

@app.task(base=PerpetualTask, bind=True, poll_every=3600, max_retries=None,
          next_batch=lambda: [Item((way, 1), key=way) for way in WAYS])
def hands_on(self, way, part):
    ledger.record(way, f"in {{part}}")
    if part == 1:
        if os.path.exists(f"died {{way}}"):
            time.sleep(3)  # the one that follows comes meanwhile
        follows = hands_on.si(way, 2)
        on_its_way[:] = [way]
        try:
            if way.startswith("retry"):
                self.retry(args=(way, 2), countdown=1)
            elif way.startswith("chain"):
                self.replace(chain(step.si(), follows))
            elif way == "chord":
                self.replace(chord([step.si(), step.si()], follows))
            else:
                self.replace(follows)
        finally:
            on_its_way.clear()
    time.sleep(2)
    ledger.record(way, f"out {{part}}")
    return way
"""


@ANY_BROKER
def test_whoever_dies_while_it_hands_its_id_on(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str
) -> None:
    """Each follower runs with its own arguments, once, and never beside its predecessor; there is one end for each."""
    proj = project(SOURCE, **{**SETTINGS, "result_backend": redis_url}, **broker)
    proj.worker(concurrency=4).ready()

    proj.run_python("import proj; proj.perpetual.poll('proj.hands_on')")

    wait_until(lambda: len(final_ends(proj)) == len(WAYS), "all have ended", 60)
    # Of the steps of a replacement none has an end of interest.
    assert {status for _, status in final_ends(proj)} == {"success"}
    assert {end["task"] for end in events(proj, "completion")} == {"proj.hands_on"}
    assert all((proj.folder / f"died {way}").exists() for way in WAYS)
    # A successor of several messages begins once more, as it is not known which of them are sent.
    expected = {way: ["in 1", "in 2", "out 2"] for way in WAYS} | {"chord": ["in 1", "in 1", "in 2", "out 2"]}
    assert {way: [row.what for row in proj.rows() if row.id == way] for way in WAYS} == expected
    keys = [f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")


def test_the_store_is_away_when_a_retried_execution_is_released(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It is released when the store is back, and counts as no loss; its retry runs at its time."""
    server = private_redis(appendonly=True)
    proj = project(
        """
        @app.task(base=PerpetualTask, bind=True)
        def retried(self):
            ledger.record(self.request.id, f"try {self.request.retries}")
            if not self.request.retries:
                self.retry(countdown=9, throw=False)
                ledger.record(self.request.id, "sent")
                while not os.path.exists("released"):
                    time.sleep(0.05)
        """,
        **SETTINGS, perpetual_store_url=server.url, perpetual_store_timeout=1,
    )  # fmt: skip
    worker = proj.worker(concurrency=1).ready()
    proj.run_python("import proj; proj.retried.delay()")
    wait_until(lambda: proj.rows("sent"), "its retry is sent")

    server.stop()
    proj.write("released", "")
    worker.wait_for_event(END_DELAYED)
    server.start()
    proj.redis = redis.Redis.from_url(server.url, decode_responses=True)

    wait_until(lambda: final_ends(proj), "it has ended")
    assert [row.what for row in proj.rows()] == ["try 0", "sent", "try 1"]
    assert events(proj, "lease.lost") == []


def test_the_broker_is_away_when_tasks_hand_their_ids_on(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], redis_url: str
) -> None:
    """Their successors are on record with their own arguments, and sent when the broker is back: no task is over."""
    broker = private_redis(appendonly=True)
    proj = project(
        """
        WAYS = ("retry", "returned", "replace", "chain")

        @app.task
        def step(): ...

        @app.task(base=PerpetualTask, bind=True, poll_every=3600, next_batch=lambda: [(way, 1) for way in WAYS])
        def hands_on(self, way, part):
            ledger.record(way, f"{part} {self.request.retries}")
            if part == 2:
                return
            while not os.path.exists("released"):
                time.sleep(0.05)
            follows = hands_on.si(way, 2)
            if way == "replace":
                self.replace(follows)
            elif way == "chain":
                self.replace(step.si() | follows)
            self.retry(args=(way, 2), countdown=0, throw=way == "retry")
        """,
        **SETTINGS, broker=broker.url, store=redis_url, task_publish_retry=False,
    )  # fmt: skip
    worker = proj.worker(concurrency=5).ready()
    proj.run_python("import proj; proj.perpetual.poll('proj.hands_on'); proj.hands_on.delay('by hand', 1)")
    wait_until(lambda: len(proj.rows()) == 5, "they run")

    broker.stop()
    proj.write("released", "")
    worker.wait_for_event(SUCCESSOR_LEFT, count=5)
    broker.start()
    proj.beat().ready()

    wait_until(lambda: len(final_ends(proj)) == 5, "all have ended", 60)
    assert {status for _, status in final_ends(proj)} == {"success"}
    retried, replaced = ["1 0", "2 1"], ["1 0", "2 0"]
    assert {way: [row.what for row in proj.rows() if row.id == way] for way in {row.id for row in proj.rows()}} == {
        "retry": retried, "returned": retried, "by hand": retried, "replace": replaced, "chain": replaced,
    }  # fmt: skip
    assert events(proj, "lease.lost") == []
