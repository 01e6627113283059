"""Lists that the cycle works off: an entry that cannot be done is put off, and the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual import Perpetual
from celery_perpetual.store.keys import Keys
from celery_perpetual.store.work_list import MOST_SHOWN, put_off, undone
from tests.support import wait_until
from tests.support.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

KEYS = Keys("perpetual")

SOURCE = """
@app.task(ignore_result=True)
def finished(counts): ...

class Barred(PerpetualTask):
    abstract = True

    def apply_async(self, *args, **options):
        if os.path.exists("barred"):
            raise OSError("no route to host")
        return super().apply_async(*args, **options)

def rows():
    return [Item((n,), key=False) for n in range(600)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, ignore_result=True)
def work(n): ...
"""


def test_batches_that_cannot_be_published_hold_up_no_other(project: Callable[..., Project]) -> None:
    """More batches than one pass looks at fail at the head of the outbox; the one behind them is published."""
    proj = project(SOURCE)
    with Console(proj) as console:
        # No record can explain this: the batch's own key is of a wrong type.
        for n in range(120):
            poll = f"bad{n}"
            proj.redis.set(KEYS.poll(poll), "of a wrong type")
            proj.redis.zadd(KEYS.outbox, {poll: 1000 + n})
        committed = "perpetual.runner.publisher"
        console(f"setattr({committed}, 'publish', lambda *_: 0)")
        assert console("perpetual.poll('proj.work')")["count"] == 600
        console(f"delattr({committed}, 'publish')")
        assert proj.redis.llen("celery") == 0

        first, second = console("perpetual.cycle()"), console("perpetual.cycle()")

        assert first["errors"] == second["errors"] == {}
        assert (first["relayed"], second["relayed"]) == (0, 600)
        assert len(second["put_off"]) == 120
        assert all("WRONGTYPE" in why for why in second["put_off"].values())
        assert console("perpetual.cycle()")["relayed"] == 0
        findings = [finding["evidence"] for finding in console("perpetual.check()")]
        (finding,) = [each for each in findings if each.startswith("120 batches could not be published, ")]
        assert "WRONGTYPE" in finding


def test_what_follows_a_batch_holds_up_no_other(project: Callable[..., Project]) -> None:
    """A batch whose ``on_batch_done`` cannot be sent is at the head; the one behind it is sent."""
    proj = project(
        SOURCE
        + """
@app.task(base=Barred, ignore_result=True)
def barred(counts): ...

def one():
    return [Item((1,), key=False)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=one, ignore_result=True,
          perpetual_options=PerpetualOptions(on_batch_done=barred.s()))
def bad(n): ...

@app.task(base=PerpetualTask, poll_every=3600, next_batch=one, ignore_result=True,
          perpetual_options=PerpetualOptions(on_batch_done=finished.s().set(queue="finished")))
def good(n): ...
"""
    )
    proj.write("barred", "")
    with Console(proj) as console:
        bad = console("perpetual.poll('proj.bad')")["poll_id"]
        good = console("perpetual.poll('proj.good')")["poll_id"]
        proj.redis.zadd(KEYS.batches, {bad: 1000, good: 2000})

        result = console("perpetual.cycle()")

        assert (result["batches"], result["errors"]) == (1, {})
        assert list(result["put_off"]) == [bad]
        assert proj.redis.llen("finished") == 1
        (proj.folder / "barred").unlink()
        wait_until(lambda: console("perpetual.cycle()")["batches"] == 1, "it is tried again", 30)
        assert proj.redis.zcard(KEYS.batches) == 0


def test_a_batch_that_was_put_off_is_named_behind_many(make_app: Callable[..., Celery]) -> None:
    """More batches than are read are due before it, as the broker takes long."""
    perpetual = Perpetual(make_app("shop"))
    store, now = perpetual.store, perpetual.store.now()
    store.redis.zadd(KEYS.outbox, {f"due{n}": now - n for n in range(MOST_SHOWN + 1)} | {"barred": now})
    put_off(store, KEYS.outbox, "barred", now + 60_000, "no route to host")

    (found,) = undone(store, KEYS.outbox, 60_000)

    assert (found.entry, found.reason) == ("barred", "no route to host")
    assert undone(store, KEYS.outbox, 60_000, ["due0", "done"]) == []
    assert undone(store, KEYS.outbox, 60_000, ["due0", "done", "barred"])[0].entry == "barred"
    store.close()


def test_why_names_what_keeps_a_batch_from_its_queue(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """The broker is away: at once `why` of that unit, and `check`, say so with the error; when it is back they do not."""
    broker = private_redis()
    proj = project(
        f"{SOURCE}\n@app.task(base=PerpetualTask, poll_every=3600, next_batch=list)\ndef idle(): ...",
        broker=broker.url, task_publish_retry=False, broker_connection_max_retries=1,
    )  # fmt: skip

    def troubles(question: str) -> list[str]:
        return [each for each in console(question) if "not be published" in each]

    with Console(proj) as console:
        broker.stop()
        assert console("perpetual.poll('proj.work')")["count"] == 600
        (reason,) = troubles("[each.evidence for each in perpetual.why('proj.work').reasons]")
        (finding,) = troubles("[each.evidence for each in perpetual.check()]")
        assert reason.startswith("1 batch of it could not be published, the last one because ")
        assert finding.startswith("1 batch could not be published, the last one because ")
        assert "refused" in reason
        assert "refused" in finding
        assert not troubles("[each.evidence for each in perpetual.why('proj.idle').reasons]")

        broker.start()
        assert wait_until(lambda: console("perpetual.cycle()")["relayed"], "the batch is relayed") == 600
        assert not troubles("[each.evidence for each in perpetual.why('proj.work').reasons]")
