"""Every verb that takes --json is on the page about JSON, and prints nothing but what the page says."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.cli import perpetual as group
from celery_perpetual.cli.examples import verbs
from tests.contract.test_json import PAGE, is_a
from tests.support.contract import begin, finish, lose, nothing
from tests.support.pretending import lead, report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery import Celery

#: Verbs that take --json.
TAKING = {
    words
    for words, command in verbs(group)
    if any(each.name == "json_" for each in command.params if isinstance(each, click.Option))
}
#: Those that follow what happens, and never end by themselves; their records are read by the API here.
FOLLOWING = {"completions", "stream"}


def rows() -> dict[str, str]:
    """Verb, with an option where that matters -> what it prints."""
    table = PAGE.split("| verb | prints |\n|---|---|\n")[1].split("\n\n")[0]
    return {
        verb: prints
        for verbs_of, prints in re.findall(r"^\| (`.+?) \| (.+?) \|$", table, re.MULTILINE)
        for verb in re.findall(r"`([\w -]+)`", verbs_of)
    }


def fits_row(value: Any, prints: str) -> bool:
    """Whether a value is one of those that a row names: ``x for one; array of ys for several``."""
    problems = []
    for kind in (each.partition(" for ")[0].strip() for each in prints.split(";")):
        try:
            if is_verdict(value) if kind == "verdict" else is_a(value, kind.removesuffix(" per line")):
                return True
        except AssertionError as error:
            problems.append(str(error))
    raise AssertionError(f"{value} is not {prints}: {problems}")


def is_verdict(value: Any) -> bool:
    named = (
        value.keys() & {"recovered", "released", "failed", "cancelled", "retried"} if isinstance(value, dict) else ()
    )
    return len(named) == 1 and value.keys() <= named | {"new_task_id"} and isinstance(value[min(named)], bool)


class Shell:
    """Verbs of the command line in this process."""

    def __init__(self, app: Celery) -> None:
        self._obj = SimpleNamespace(app=app)
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def __call__(self, words: str, *args: str, row: str = "", code: int = 0) -> Any:
        """The JSON that a verb prints, which is as the page says."""
        done = CliRunner().invoke(group, [*words.split(), *args, "--json"], obj=self._obj)
        self.seen |= {words, row or words}
        value = json.loads(done.stdout or "null")
        try:
            assert done.exit_code == code, (done.output, done.exception)
            assert fits_row(value, rows()[row or words])
        except AssertionError as error:
            self.problems.append(f"{words}: {error}")
        return value


def test_the_page_names_each_verb_that_takes_json() -> None:
    assert {verb.partition(" --")[0] for verb in rows()} == TAKING


@pytest.fixture
def perpetual(make_app: Callable[..., Celery]) -> Perpetual:
    perpetual = Perpetual(make_app())
    app = perpetual.app

    app.task(
        base=PerpetualTask, name="deliver", shared=False, poll_every=60,
        next_batch=lambda: [Item((n,), key=n) for n in range(10)], tenants=["acme"],
    )(nothing)  # fmt: skip
    app.task(name="tidy", shared=False)(nothing)
    lead(perpetual)
    report(perpetual)
    return perpetual


def test_each_verb_prints_what_the_page_says(perpetual: Perpetual, tmp_path: Path) -> None:
    """One after the other, on units, items and routines in the states in which they have something to say."""
    shell = Shell(perpetual.app)
    use_units(perpetual, shell)
    use_routines(shell, tmp_path / "many")

    assert not shell.problems, "\n".join(shell.problems)
    assert shell.seen | FOLLOWING == rows().keys() | TAKING


def use_units(perpetual: Perpetual, shell: Shell) -> None:
    acme = ("deliver", "--tenant", "acme")
    polled = shell("poll", *acme)
    ids, poll_id = polled["task_ids"], polled["poll_id"]
    lose(perpetual, ids[3])
    report(perpetual)
    begin(perpetual, ids[0])
    finish(perpetual, ids[1])
    finish(perpetual, ids[2], "failure", ValueError("bad"))
    for task_id in ids[3:5]:
        perpetual.store.redis.hset(perpetual.store.keys.parked, task_id, parked(task_id))
        perpetual.store.redis.zadd(perpetual.store.keys.parked_at, {task_id: 1})

    for words in ("units", "polls deliver --tenant acme", "leases", "parked", "workers", "items deliver --tenant acme"):
        verb, *args = words.split()
        assert shell(verb, *args), words
    for words in ("why", "preview", "cursor show"):
        shell(words, *acme)
    shell("cursor set", "deliver", "7", "--tenant", "acme")
    shell("cursor reset", *acme, "--yes")
    shell("check", code=1)
    shell("doctor", code=1)
    shell("status", code=1)
    shell("top", code=0)
    shell("status", "--liveness", row="status --liveness", code=2)
    shell("nudge", *acme, code=1)
    shell("pause", "--task", "deliver", "--reason", "a test")
    shell("resume", "--task", "deliver", "--reason", "it is over")
    shell("allow", "deliver", "7", "--tenant", "acme", code=1)
    shell("wait", ids[1], "--timeout", "0s")
    shell("wait", ids[9], "--timeout", "0", code=4)
    shell("wait-batch", poll_id, "--timeout", "0", code=4)
    shell("recover", ids[9], "--yes", code=1)
    shell("release", ids[0], "--yes")
    shell("fail", ids[5], "--reason", "a test", "--yes")
    shell("cancel", ids[6], ids[1], "--yes", code=1)
    shell("retry", ids[2], "--yes")
    shell("retry", ids[1], ids[5], code=1)
    shell("replay", poll_id, "--yes", code=1)
    shell("cycle")
    shell("stats")
    shell("rebuild", "--yes")
    shell("purge", "celery", "--yes")
    shell("drain", "--timeout", "0")
    shell("resume", "--all")
    assert fits_row(perpetual.completion(ids[1]).to_dict(), rows()["completions"])
    event = next(iter(perpetual.stream("group", "one", "all")))
    assert fits_row({"id": event.id, "event": event.event, "data": event.data}, rows()["stream"])


def use_routines(shell: Shell, many: Path) -> None:
    shell("routines create", "tidy", "--id", "one", "--every", "1h")
    many.write_text('{"id": "two", "task": "tidy", "every": 60}\n')
    shell("routines create", "--from", str(many), row="routines create --from")
    for words in ("routines list", "routines due", "routines next"):
        shell(words)
    shell("routines show", "one")
    shell("routines update", "one", "--every", "2h")
    for verb in ("pause", "resume"):
        shell(f"routines {verb}", "one")
    shell("routines pause", "--task", "tidy")
    shell("routines resume", "--task", "tidy")
    shell("routines run-now", "one")
    shell("routines run-due")
    shell("routines cancel", "--all", "--yes")
    shell("routines delete", "one", "--yes")
    shell("routines delete", "--all", "--yes")


def parked(task_id: str) -> str:
    """The stored text of a parked task."""
    at = int(1000 * (datetime.now(timezone.utc) - timedelta(minutes=1)).timestamp())
    return json.dumps({
        "task_id": task_id, "task": "deliver", "worker": "w@host#1", "token": 1, "attempt": 1, "recoveries": 3,
        "started_at": at, "parked_at": at, "reason": "3 workers died",
    })  # fmt: skip
