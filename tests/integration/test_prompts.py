"""Questions and answers of verbs: one question before something is destroyed, none where there is nothing to destroy."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_perpetual import Batch, Item
from celery_perpetual.cli import leases, prompts
from celery_perpetual.cli import perpetual as group
from celery_perpetual.operations.purging import QueueContents, contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp

UNKNOWN = "01a1fa18-c0de-80d8-8c2b-697300000825"


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def run(one: WatchedApp, *words: str, answer: str = "n\n") -> tuple[int, str]:
    """Run a verb in this process and answer its question; exit code and output."""
    done = CliRunner().invoke(group, words, obj=CLIContext(app=one.app, no_color=True, workdir=None), input=answer)
    return done.exit_code, done.output


@pytest.mark.parametrize("words", [("cancel",), ("release",), ("fail", "--reason", "bad")])
def test_an_id_without_a_task_is_not_asked_about(one: WatchedApp, words: tuple[str, ...]) -> None:
    """The verb says at once that it does nothing, also for one that has ended; of several the question counts the rest."""
    first, second = one.poll([(1,), (2,)]).task_ids
    one.perpetual.cancel(second, once=True)

    for unknown in ("nosuch", UNKNOWN, second):
        code, said = run(one, *words, unknown)
        assert (code, "[y/N]" in said, unknown in said) == (1, False, True)
        if words != ("release",):
            assert ("nothing is known of it" in said, "it has ended before, as revoked, " in said) == (
                (unknown != second, unknown == second)
            )
    if words != ("release",):
        code, said = run(one, *words, first)
        assert (code, f"{first}? " in said or f"{first} as failed? " in said, "allow it" in said) == (1, True, True)
        code, said = run(one, *words, first, "nosuch", second)
        assert (code, "1 of 3 tasks" in said) == (1, True)
    assert one.perpetual.completion(first).status == "pending"
    assert [item.state for item in one.perpetual.items("app.work")] == ["waiting"]


def test_an_error_of_one_task_stands_behind_its_id(one: WatchedApp) -> None:
    """The others are dealt with all the same."""
    (ended,) = one.poll([(1,)]).task_ids
    one.perpetual.fail(ended, "bad row")

    code, said = run(one, "retry", "nosuch", ended)

    first, second = said.splitlines()
    assert (code, first.startswith("nosuch: NotFound: "), second.startswith(f"{ended} is enqueued again as ")) == (
        (1, True, True)
    )


def test_a_purge_counts_first(one: WatchedApp) -> None:
    """It says how many messages, how many items among them, and what follows; an empty or unknown queue is not asked about."""
    assert run(one, "purge", "celery") == (0, "queue celery is empty\n")
    code, said = run(one, "purge", "cellery")
    assert (code, "[y/N]" in said, "was not purged" in said) == (3, False, True)
    assert run(one, "replay", "nosuch")[0] == 3
    one.poll([Item((n,), priority=3 * n) for n in range(3)])
    one.app.send_task("of.others")
    one.redis.lpush("celery", "no message", "[]")

    code, said = run(one, "purge", "celery")

    assert (code, one.redis.llen("celery")) == (1, 4)
    assert said.startswith(
        "Delete 6 messages of queue celery? Items of perpetual tasks among them: 3. They end as revoked"
    )
    one.redis.lpush("many", *['{"headers": {"id": "x"}}'] * 10_001)
    assert "10001 messages of queue many? Items of perpetual tasks among them: 0 of the first 10000." in run(
        one, "purge", "many"
    )[1]  # fmt: skip
    one.redis.lpush("plain", '{"headers": {"id": "x"}}')
    assert run(one, "purge", "plain")[1].startswith(
        "Delete 1 message of queue plain? Items of perpetual tasks among them: 0. [y/N]"
    )


def test_a_purge_of_a_broker_that_shows_no_messages(watched_app: Callable[..., WatchedApp], redis_url: str) -> None:
    """The number of messages is all that is known; what follows is said all the same."""
    one = watched_app(broker_url="memory://", perpetual_store_url=redis_url)
    one.app.send_task("of.others")

    assert run(one, "purge", "celery")[1].startswith(
        "Delete 1 message of queue celery? Items of perpetual tasks among them: not shown by this broker. They end as "
    )
    assert run(one, "purge", "celery", "--yes") == (0, "deleted 1 message of queue celery\n")


def test_a_purge_that_has_seen_nothing_deletes_nothing(
    one: WatchedApp, monkeypatch: pytest.MonkeyPatch, watched_app: Callable[..., WatchedApp], redis_url: str
) -> None:
    """Messages that come between the look and the purge were not asked about, nor those that a broker does not count."""
    usual = contents

    def then_comes(perpetual: Any, queue: str) -> QueueContents:
        found = usual(perpetual, queue)
        one.app.send_task("of.others")
        return found

    monkeypatch.setattr("celery_perpetual.cli.purging.contents", then_comes)
    assert run(one, "purge", "celery") == (0, "queue celery is empty\n")
    assert one.redis.llen("celery") == 1

    other = watched_app(broker_url="memory://", perpetual_store_url=redis_url)
    other.app.send_task("of.others")
    monkeypatch.setattr("celery_perpetual.cli.purging.contents", lambda *_: QueueContents(messages=0, read=0, items=0))
    assert run(other, "purge", "celery", "--json")[0] == 0
    monkeypatch.setattr("celery_perpetual.cli.purging.contents", usual)
    assert run(other, "purge", "celery", "--yes") == (0, "deleted 1 message of queue celery\n")


@pytest.mark.parametrize(("words", "status"), [(("cancel",), "revoked"), (("fail", "--reason", "bad"), "failure")])
def test_a_verb_acts_only_on_what_its_question_named(
    one: WatchedApp, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: str
) -> None:
    """A task that comes up while the question waits is reported, and a second call ends it."""
    first, second = one.poll([(1,), (2,)]).task_ids
    usual, comes = leases.can_be_ended, list[str]()
    monkeypatch.setattr(leases, "can_be_ended", lambda of, each: (each != second or each in comes) and usual(of, each))
    asked = prompts.ask

    def ask(question: str) -> None:
        asked(question)
        comes.append(second)

    monkeypatch.setattr(prompts, "ask", ask)
    code, said = run(one, *words, first, second, answer="y\n")

    assert (code, "1 of 2 tasks" in said) == (1, True)
    assert f"{second} was not ended: it was not known yet when this command asked; repeat it" in said
    assert [one.perpetual.completion(each).status for each in (first, second)] == [status, "pending"]
    assert run(one, *words, second, answer="y\n")[0] == 0
    assert one.perpetual.completion(second).status == status


@pytest.mark.parametrize("name", ["cancel", "delete"])
def test_a_verb_acts_only_on_routines_that_its_question_named(
    one: WatchedApp, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One that comes into another state meanwhile is reported."""
    one.task([])
    routines = one.perpetual.routines
    for routine_id in ("first", "second"):
        routines.create("app.work", id=routine_id, every=3600)
    other = "second" if name == "delete" else "third"
    if name == "delete":
        routines.cancel("first")
    asked = prompts.ask

    def ask(question: str) -> None:
        asked(question)
        if name == "delete":
            routines.cancel(other)
        else:
            routines.create("app.work", id=other, every=3600)

    monkeypatch.setattr(prompts, "ask", ask)
    code, said = run(one, "routines", name, "first", other, answer="y\n")

    assert (code, f"{name}: 1 done, 1 refused" in said) == (1, True)
    assert f"routine {other} is " in said
    assert "was not asked about" in said
    assert routines.get(other).state == ("cancelled" if name == "delete" else "active")


def test_a_cursor_is_shown_before_it_is_forgotten(one: WatchedApp) -> None:
    """An unknown task, and one without a cursor, are not asked about."""
    one.perpetual.poll(one.task([], name="app.read", next_batch=lambda: Batch([], cursor=17)))

    assert run(one, "cursor", "reset", "app.nothing")[0] == 2
    code, said = run(one, "cursor", "reset", "app.read")
    assert (code, said.startswith("Forget the cursor 17 of app.read, ")) == (1, True)
    assert one.perpetual.cursor("app.read") == 17
    assert run(one, "cursor", "reset", "app.read", "--yes") == (0, "cursor of app.read is forgotten; it was 17\n")
    assert run(one, "cursor", "reset", "app.read") == (0, "app.read has no cursor\n")


def test_a_routine_that_would_not_change_is_not_asked_about(one: WatchedApp) -> None:
    """Neither one that is not there, nor one in another state; filters that match none are not asked about either."""
    one.task([])
    routines = one.perpetual.routines
    routines.create("app.work", id="open", every=3600)
    routines.create("app.work", id="over", every=3600)
    routines.cancel("over")

    def asked(*words: str) -> tuple[int, bool]:
        code, said = run(one, "routines", *words)
        return code, "[y/N]" in said

    assert asked("cancel", "nosuch") == (3, False)
    assert asked("delete", "nosuch") == (3, False)
    assert asked("delete", "open") == (1, False)
    assert asked("cancel", "--task", "of.others") == (0, False)
    assert asked("cancel", "open") == (1, True)
    assert asked("delete", "open", "over") == (1, True)
    assert "Delete 1 of 2 routines? The record is removed." in run(one, "routines", "delete", "open", "over")[1]
    assert [each.id for each in routines.list(state="active")] == ["open"]
    before = routines.get("over")
    assert asked("cancel", "over") == (0, False)
    assert run(one, "routines", "cancel", "over", "open", answer="y\n")[1].endswith(
        "cancel: 1 done, 0 refused, 1 had ended before\n"
    )
    shown = json.loads(run(one, "routines", "cancel", "--all", "--yes", "--json")[1])
    assert shown == {"done": 0, "refused": []}
    assert routines.get("over") == before


@pytest.mark.parametrize("scope", [{"task": "app.work"}, {"everything": True}, {"routine": "nightly"}])
def test_a_second_pause_says_which_it_replaces(one: WatchedApp, scope: dict[str, Any]) -> None:
    """The answer has who, why and since when of the first; one that has ended by itself is none."""
    one.task([])
    one.perpetual.routines.create("app.work", id="nightly", every=3600)
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in scope.items()]
    words = ["--all" if word == "--everything" else word for word in words]
    first = one.perpetual.pause(**scope, reason="printer is broken")
    assert (first.replaced, first.to_dict()["replaced"]) == (None, None)

    second = one.perpetual.pause(**scope, reason="upgrade", until=datetime.now(timezone.utc) + timedelta(hours=1))

    assert second.replaced is not None
    assert (second.reason, second.replaced.reason, second.replaced.by) == ("upgrade", "printer is broken", first.by)
    assert abs(second.replaced.at - first.at) < timedelta(seconds=5)
    assert second.to_dict()["replaced"]["reason"] == "printer is broken"
    code, said = run(one, "pause", *words, "--reason", "third")
    assert (code, said.splitlines()[1].startswith("it replaces the pause: upgrade (by ")) == (0, True)
    assert "printer" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("leases",), "no task runs"),
        (("parked",), "no task is parked"),
        (("workers",), "no worker lives"),
        (("units", "--state", "paused"), "there is no such unit"),
        (("items", "app.work"), "no item is in flight, and no key is left out"),
        (("polls", "app.work"), "there was no poll yet"),
        (("routines", "list"), "there is no such routine"),
        (("routines", "run-due"), "no routine was due"),
    ],
)
def test_an_empty_table_is_a_sentence(one: WatchedApp, words: tuple[str, ...], says: str) -> None:
    """At night a bare line of heads is no answer."""
    one.task([])

    code, said = run(one, *words)

    assert (code, said.splitlines()[-1]) == (0, says)
