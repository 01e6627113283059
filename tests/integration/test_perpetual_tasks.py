"""Which tasks are polled: every way to write one, and what is refused at start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

FORMS = """
def generate(poll, size=1):
    yield from [("d",)] * size

app.conf.imports = ["later"]
app.conf.task_annotations = {"proj.annotated": {"poll_every": 3600, "next_batch": generate}}

class Reads(PerpetualTask):
    letter = "a"

    def next_batch(self, poll):
        ledger.record(self.name, f"{self.letter} {poll.task}")
        return [(self.letter,)]

class Own(Reads):
    name = "proj.own"
    poll_every = 3600

    def run(self, letter):
        pass

class Heir(Own):
    name = "proj.heir"
    letter = "b"

app.register_task(Own())
app.register_task(Heir())

class OptedOut(Own):
    name = "proj.opted_out"
    poll_every = None

app.register_task(OptedOut())

@app.task(bind=True, base=Reads, poll_every=3600)
def on_base(self, letter):
    pass

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [("c",)])
def no_argument(letter):
    pass

@app.task(bind=True, base=PerpetualTask, poll_every=3600, next_batch=generate)
def generator(self, letter):
    pass

@app.task(poll_every=3600, next_batch=generate)
def plain_base(letter):
    pass

class Source:
    def due(self, poll):
        return [("e",)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=Source().due)
def bound(letter):
    pass

@app.task(base=PerpetualTask)
def annotated(letter):
    pass
"""

LATER = """
from celery import shared_task
from celery_perpetual import PerpetualTask
from proj import app

@app.task(base=PerpetualTask, poll_every=3600)
def decorated(letter):
    pass

@decorated.batch
def due(poll):
    return [("f",)]

@shared_task(base=PerpetualTask, poll_every=3600)
def shared(letter):
    pass

@shared.batch
def shared_due():
    return [("g",)]
"""

LETTERS = {
    "proj.own": "a", "proj.heir": "b", "proj.on_base": "a", "proj.no_argument": "c", "proj.generator": "d",
    "proj.plain_base": "d", "proj.bound": "e", "proj.annotated": "d", "later.decorated": "f", "later.shared": "g",
}  # fmt: skip


def test_every_way_to_write_a_perpetual_task(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Class or decorator, own, inherited, annotated or shared: each is polled, and a method gets its own task."""
    proj = project(FORMS)
    proj.write("later.py", LATER)
    beat = proj.beat().ready()
    wait_until(lambda: len(poll_events(store_redis)) >= len(LETTERS), "every task is polled")

    assert {m.task: m.args[0] for m in queued(store_redis)} == LETTERS
    assert {poll.status for poll in poll_events(store_redis)} == {"enqueued"}
    assert sorted((row.id, row.what) for row in proj.rows()) == [
        ("proj.heir", "b proj.heir"),
        ("proj.on_base", "a proj.on_base"),
        ("proj.own", "a proj.own"),
    ]
    assert "opted_out" not in beat.log()


def test_a_shared_task_made_before_its_app(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """``@task.batch`` above a function of a module that is imported before any app exists reaches the app's task."""
    proj = project()
    proj.write(
        "early.py",
        """
        from celery import shared_task
        from celery_perpetual import PerpetualTask

        @shared_task(base=PerpetualTask, poll_every=3600, name="early.shared")
        def shared(letter):
            pass

        @shared.batch
        def due(poll):
            return [(poll.task,)]
        """,
    )
    head = (proj.folder / "proj.py").read_text()
    proj.write("proj.py", f"import early\n{head}")

    proj.beat().ready()

    wait_until(lambda: queued(store_redis), "the task is polled")
    assert [(m.task, m.args) for m in queued(store_redis)] == [("early.shared", ["early.shared"])]


REFUSED = {
    "zero": ("poll_every=0, next_batch=list", "poll_every must be at least 0.01 seconds, got 0"),
    "negative": ("poll_every=-1, next_batch=list", "poll_every must be at least 0.01 seconds, got -1"),
    "text": ("poll_every='soon', next_batch=list", "poll_every must be seconds, a timedelta or a Celery schedule"),
    "number": ("poll_every=1, next_batch=5", "next_batch must be a function, method or generator function, got 5"),
    "two": ("poll_every=1, next_batch=lambda self, poll: []", "next_batch must take no argument or one Poll"),
    "options": ("poll_every=1, next_batch=due, perpetual_options={}", "perpetual_options must be a PerpetualOptions"),
    "full": ("poll_every=1, next_batch=due, max_in_flight=0", "max_in_flight must be a whole number of at least 1"),
    "hasty": ("poll_every=1, next_batch=due, poll_timeout=-1", "poll_timeout must be at least"),
    "tenants": (
        "poll_every=1, next_batch=due, tenants='acme'",
        "tenants must be a list (or any iterable) of tenants, got 'acme'",
    ),
    "named_twice": ("poll_every=1, next_batch=due, tenants=[7, '7']", "tenants 7 and '7' have the same name '7'"),
    "unnamed": ("poll_every=1, next_batch=due, tenants=[{'url': 'x'}]", "a tenant must be a str, an int, or a dict"),
    "lines": ("poll_every=1, next_batch=due, tenants=['a\\nb']", "the name of a tenant must be one line of text"),
    "asks": (
        "poll_every=1, next_batch=due, tenants=lambda task: []",
        "tenants must be a list, or a function that takes no argument",
    ),
}


@pytest.mark.parametrize("command", ["beat", "worker"])
def test_wrong_tasks_are_refused_at_start(project: Callable[..., Project], command: str) -> None:
    """Beat and worker end with an error that names every wrong task, its file and line, and what is wrong."""
    tasks = [
        f"@app.task(base=PerpetualTask, {options})\ndef {name}(number=1):\n    pass\n"
        for name, (options, _) in REFUSED.items()
    ]
    proj = project("def due():\n    return []\n" + "\n".join(tasks))

    process = proj.beat() if command == "beat" else proj.worker()

    assert process.wait() == 1
    lines = (proj.folder / "proj.py").read_text().splitlines()
    for name, (options, error) in REFUSED.items():
        line = lines.index(f"@app.task(base=PerpetualTask, {options})") + 1
        assert f"task proj.{name} ({proj.folder}/proj.py:{line}): {error}" in process.log()
