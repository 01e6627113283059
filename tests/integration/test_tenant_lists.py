"""Functions that find tenants, as the leader calls them: slow, failing, huge; nothing waits for them."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import PerpetualOptions
from celery_perpetual.beat import tenants as lists
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.roster import Roster
from celery_perpetual.events import TENANTS_CHANGED, TENANTS_FAILED, TENANTS_REFUSED, TENANTS_SLOW
from celery_perpetual.store.commands.tenants import note_trouble, noted_troubles
from tests.support import wait_until
from tests.support.event_log import logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp


class Leader:
    """The lists of a leading beat, turned by the test."""

    def __init__(self, watched: WatchedApp) -> None:
        self.watched, self.perpetual = watched, watched.perpetual
        self.leadership = Leadership(self.perpetual.store, app_name="app", ttl=15, health=LeadHealth())
        self.leadership.start(before_resigning=lambda: None, saw_epoch=lambda _: None)
        self.slowest = 0.0

    def begin(self) -> None:
        self.roster = Roster(self.watched.app, self.perpetual.settings)
        self.lists = lists.TenantLists(self.perpetual.store, self.roster, self.leadership, ttl=0.01)

    def turn(self) -> None:
        begun = time.monotonic()
        self.lists.turn()
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.roster.refresh(self.leadership.value or "")

    def until(self, predicate: Callable[[], Any], what: str) -> None:
        wait_until(lambda: self.turn() or predicate(), what, timeout=20, interval=0.01)

    def tenants(self, task: str) -> set[str | None]:
        return {unit.tenant for unit in self.roster.units.values() if unit.contract.name == task}


@pytest.fixture
def leader(watched_app: Callable[..., WatchedApp]) -> Iterator[Leader]:
    leader = Leader(watched_app())
    yield leader
    leader.leadership.stop(5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function is slow after 0.2 s, and has a head start of 0.1 s."""
    monkeypatch.setattr(lists, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(lists, "HEAD_START", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_function_that_takes_long_holds_nothing_up(leader: Leader, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once and called by one thread; the last list is kept, and what it returns at last is used."""
    goes_on, calls = threading.Event(), list[str]()

    def slow() -> list[str]:
        calls.append("slow")
        if len(calls) == 2:
            goes_on.wait(20)
        return ["a"] if len(calls) == 1 else ["a", "b"]

    leader.watched.task([], name="slow", tenants=slow)
    leader.watched.task([], name="other", tenants=lambda: ["c"])
    leader.begin()
    leader.until(lambda: leader.tenants("slow") == {"a"} and len(calls) == 2, "it is called again")
    with caplog.at_level(logging.WARNING, "celery_perpetual"):
        leader.until(lambda: logged(caplog, TENANTS_SLOW), "it is reported")
        for _ in range(30):
            leader.turn()
    assert logged(caplog, TENANTS_SLOW) == [{"task": "slow", "seconds": 0, "kept": 1}]
    assert (leader.tenants("slow"), leader.tenants("other"), calls) == ({"a"}, {"c"}, ["slow", "slow"])
    assert leader.slowest < 1

    goes_on.set()
    leader.until(lambda: leader.tenants("slow") == {"a", "b"}, "its answer is used")


@pytest.mark.usefixtures("impatient")
def test_the_next_leader_goes_on_with_the_last_list(leader: Leader) -> None:
    """Where the function hangs from its first call on: what an earlier one has found is in the store."""
    answers: list[Any] = [["a", {"key": "b", "url": "x"}]]
    goes_on = threading.Event()

    def function() -> Any:
        return answers[0] if answers else goes_on.wait(20)

    leader.watched.task([], name="work", tenants=function)
    leader.begin()
    leader.until(lambda: leader.tenants("work") == {"a", "b"}, "they are there")
    answers.clear()
    leader.begin()
    leader.until(lambda: leader.tenants("work") == {"a", "b"}, "they are there again")
    assert leader.roster.units["perpetual:work:b"].tenant_value == {"key": "b", "url": "x"}
    goes_on.set()


def test_each_wrong_answer_is_clear(leader: Leader, caplog: pytest.LogCaptureFixture) -> None:
    """An error, no list, two values of one name, values that cannot be tenants: the rest counts, and the last list stays."""
    answers: list[Any] = [["a", "b"]]

    def function() -> Any:
        if isinstance(answers[-1], BaseException):
            raise answers[-1]
        return answers[-1]

    leader.watched.task([], name="work", tenants=function)
    leader.begin()
    leader.until(lambda: leader.tenants("work") == {"a", "b"}, "they are there")
    for wrong, says in (
        (OSError("no database"), "no database"), (SystemExit(3), "3"), (None, "must be a list"), ("abc", "must be a list"),
        ({"key": "a"}, "must be a list"),
    ):  # fmt: skip
        caplog.clear()
        answers.append(wrong)
        leader.until(lambda: logged(caplog, TENANTS_FAILED), f"{wrong!r} is reported")
        assert says in caplog.text
        assert leader.tenants("work") == {"a", "b"}

    caplog.clear()
    answers.append(["a", "a", {"key": "a", "url": "x"}, None, 1.5, "c\nd", "e"])
    leader.until(lambda: leader.tenants("work") == {"a", "e"}, "the rest counts")
    (refused,) = logged(caplog, TENANTS_REFUSED)
    assert refused["count"] == 4
    assert "have the same name 'a'" in refused["first"]


def test_fifty_thousand_tenants_come_at_once(leader: Leader, caplog: pytest.LogCaptureFixture) -> None:
    """And go again; a task beside them has its own all the time."""
    answers: list[Any] = [range(50_000)]
    leader.watched.task([], name="many", tenants=lambda: answers[-1])
    leader.watched.task([], name="few", tenants=lambda: ["a"])
    leader.begin()
    leader.until(lambda: len(leader.tenants("many")) == 50_000, "they are there")
    assert leader.tenants("few") == {"a"}
    with caplog.at_level(logging.INFO, "celery_perpetual"):
        answers.append([7])
        leader.until(lambda: leader.tenants("many") == {"7"}, "they are gone")
    assert [(each["arrived"], each["departed"]) for each in logged(caplog, TENANTS_CHANGED)] == [(0, 49_999)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", ["raises", "hangs"])
def test_a_function_without_an_answer_is_a_finding_until_it_has_one(leader: Leader, trouble: str) -> None:
    """`status` and `why` name the error, since when, and how many tenants are kept; a new leader goes on with that."""
    goes_on, broken = threading.Event(), [False]

    def find() -> list[str]:
        if broken[0] and trouble == "hangs":
            goes_on.wait(20)
        elif broken[0]:
            raise ConnectionRefusedError("the customers are away")
        return ["a", "b"]

    def found() -> list[str]:
        return [each.evidence for each in leader.perpetual.status().findings if each.kind == "tenants_failed"]

    leader.watched.task([], name="work", tenants=find)
    leader.begin()
    leader.until(lambda: leader.tenants("work") == {"a", "b"}, "they are known")
    assert found() == []
    broken[0] = True
    leader.until(found, "it is a finding")
    wanted = {"raises": "raised ConnectionRefusedError: the customers are away", "hangs": "has not returned for 0.2 s"}
    assert found() == [f"task work: its tenants function {wanted[trouble]}"]
    (reason,) = [each for each in leader.perpetual.why("work", "a").reasons if "its tenants function" in each.evidence]
    assert reason.since is not None
    assert reason.meaning.endswith("2 tenants are kept")
    broken[0] = False
    goes_on.set()
    leader.until(lambda: not found(), "it has an answer")


@pytest.mark.usefixtures("impatient")
def test_a_function_that_hangs_for_days_stays_a_finding(
    leader: Leader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store forgets in time what is noted of it, so it is noted again; the event comes once."""
    monkeypatch.setattr(lists, "NOTED_AGAIN", 0.1)
    goes_on = threading.Event()
    leader.watched.task([], name="work", tenants=lambda: goes_on.wait(20) and ["a"])
    store, key = leader.perpetual.store, leader.perpetual.store.keys.tenants_failed
    leader.begin()
    leader.until(lambda: noted_troubles(store), "it is noted")
    since = noted_troubles(store)["work"]["since"]
    leader.watched.redis.delete(key)

    leader.until(lambda: noted_troubles(store), "it is noted again")

    assert noted_troubles(store)["work"]["since"] == since
    assert len(logged(caplog, TENANTS_SLOW)) == 1
    goes_on.set()
    leader.until(lambda: not noted_troubles(store), "it has an answer")


def test_a_note_counts_only_for_a_function_that_is_called(watched_app: Callable[..., WatchedApp]) -> None:
    """Not after a list has replaced it, or its task is gone or disabled, though the note stays for a day."""
    one = watched_app(perpetual_disabled=["named"])
    one.task([], name="work", tenants=lambda: ["a"])
    one.task([], name="listed", tenants=["a"])
    one.task([], name="plain")
    one.task([], name="named", tenants=lambda: ["a"])
    one.task([], name="off", tenants=lambda: ["a"], perpetual_options=PerpetualOptions(enabled=False))
    for task in ("work", "listed", "plain", "named", "off", "gone"):
        note_trouble(one.perpetual.store, task, '{"trouble": "raised it", "since": 1, "kept": 1}')

    found = [each for each in one.perpetual.status().findings if each.kind == "tenants_failed"]

    assert [each.about["task"] for each in found] == ["work"]
    for task, tenant in (("listed", "a"), ("plain", None), ("named", "a"), ("off", "a")):
        assert "raised it" not in str(one.perpetual.why(task, tenant).reasons)
    assert "raised it" in str(one.perpetual.why("work", "a").reasons)
