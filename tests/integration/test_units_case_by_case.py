"""Units, preflights and their loop, case by case; on the clock of a leading beat."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Batch, ContractError, Defer, ErrorRule, PerpetualOptions, PerpetualTask, Poll
from tests.support import wait_until
from tests.support.contract import finish, nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Loop:
    """An app, its clock, and what was called."""

    def __init__(self, watched: WatchedApp) -> None:
        self.app, self.perpetual, self.redis = watched.app, watched.perpetual, watched.redis
        self.calls: list[Any] = []
        self.times: list[float] = []
        self.clock: LeadingClock = None  # type: ignore[assignment]  # made when all tasks are there

    def task(self, name: str, *answers: Any, every: float = 3600, **attributes: Any) -> Any:
        """Make a task whose polls have these answers, one after the other; errors are raised."""
        left, options = list(answers), attributes.pop("options", {})

        def next_batch(poll: Poll) -> Any:
            self.calls.append(name if poll.tenant is None else f"{name} {poll.tenant}")
            self.times.append(time.monotonic())
            answer = left.pop(0) if left else None
            if isinstance(answer, BaseException):
                raise answer
            return answer(poll) if callable(answer) else answer

        return self.app.task(
            name=name, base=PerpetualTask, shared=False, poll_every=every, next_batch=next_batch,
            perpetual_options=PerpetualOptions(**options), **attributes,
        )(nothing)  # fmt: skip

    def until(self, predicate: Callable[[], Any], what: str) -> None:
        self.clock = self.clock or LeadingClock(self.perpetual)
        wait_until(lambda: self.clock.turn() or predicate(), what, timeout=20, interval=0.003)

    def status(self, task: Any, tenant: str | None = None) -> list[str]:
        """How the polls ended, oldest first; equal ones are folded."""
        return [poll.status for poll in self.perpetual.polls(task, tenant)][::-1]


@pytest.fixture
def loop(watched_app: Callable[..., WatchedApp]) -> Iterator[Loop]:
    fast = {"node": (0.02, 0.02), "degraded": (0.02, 0.02)}
    loop = Loop(watched_app(perpetual_error_policies=fast))
    yield loop
    if loop.clock is not None:
        loop.clock.close()


def test_two_tenants_two_tasks_and_a_global_one_are_five_units(loop: Loop) -> None:
    """Each with its name; the preflight of a task is one gate for each tenant, and it comes first."""
    tenants = ["acme/site", "umbrella:eu"]
    loop.task("issues", tenants=tenants, preflight=lambda tenant: loop.calls.append(f"check {tenant}"))
    loop.task("comments", tenants=tenants)
    loop.task("explainer")
    loop.until(lambda: len(loop.calls) == 7, "all are polled")

    assert sorted(unit.name for unit in loop.perpetual.units()) == [
        "perpetual:comments:acme/site", "perpetual:comments:umbrella%3Aeu", "perpetual:explainer",
        "perpetual:issues:acme/site", "perpetual:issues:umbrella%3Aeu",
    ]  # fmt: skip
    assert sorted(loop.redis.keys("perpetual:preflight:*")) == [
        "perpetual:preflight:issues:acme/site", "perpetual:preflight:issues:umbrella%3Aeu",
    ]  # fmt: skip
    for tenant in tenants:
        assert loop.calls.index(f"check {tenant}") < loop.calls.index(f"issues {tenant}")


def test_a_look_up_of_a_tenant_that_fails_is_made_again_and_then_kept(loop: Loop) -> None:
    """It fails the first poll, succeeds in the second one, and is not repeated by the third one."""
    looked_up: list[str] = []

    def id_of() -> int:
        looked_up.append("once")
        if len(looked_up) == 1:
            raise ConnectionError("no database")
        return 7

    def work(poll: Poll) -> list[Any]:
        assert loop.perpetual.tenant_context(poll.tenant).get("id", id_of) == 7
        return []

    task = loop.task("work", work, work, work, every=0.02, tenants=["acme"])
    loop.until(lambda: len(loop.calls) == 4, "it is polled")
    assert loop.status(task, "acme")[:2] == ["failed", "empty"]
    assert len(looked_up) == 2


def test_preflights_and_tasks_may_be_named_in_any_order(loop: Loop) -> None:
    """Two of each, in turns: every task has both gates, and both run once."""
    for number in (1, 2):
        loop.perpetual.preflight(lambda number=number: loop.calls.append(number), name=f"check {number}")
        loop.task(f"work {number}")
    loop.until(lambda: len(loop.calls) == 4, "both are polled")
    assert sorted(loop.calls[:2]) == [1, 2]
    assert sorted(loop.calls[2:]) == ["work 1", "work 2"]


def test_nothing_to_poll_is_no_error(loop: Loop) -> None:
    """No perpetual task, and a task without tenants: no unit, and a clock that turns."""
    loop.clock = LeadingClock(loop.perpetual)
    assert loop.perpetual.units() == []
    loop.clock.turn()
    loop.task("work", tenants=[])
    assert loop.perpetual.units() == []
    loop.clock.turn()
    assert loop.calls == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tenants": ["a", {"key": "a", "url": "x"}]}, "have the same name 'a'"),
        ({"tenants": "acme"}, "tenants must be a list"),
        ({"every": 0}, "poll_every must be"),
        ({"max_in_flight": 10, "options": {"low_water": 11}}, r"low_water \(11\) must be at most max_in_flight \(10\)"),
    ],
)
def test_units_that_cannot_be_are_refused(loop: Loop, given: dict[str, Any], says: str) -> None:
    """When the tasks are read, by the name of the task."""
    loop.task("work", **given)
    with pytest.raises(ContractError, match=rf"task work .*{says}"):
        loop.perpetual.units()


def test_an_interval_of_ten_milliseconds(loop: Loop) -> None:
    """Is kept: no two polls of a slot, and no poll is left out for long."""
    task = loop.task("work", every=0.01)
    loop.until(lambda: len(loop.calls) >= 5, "it is polled")
    assert loop.times[4] - loop.times[0] < 5
    slots = [poll.slot for poll in loop.perpetual.polls(task)]
    assert len(set(slots)) == len(slots)


def test_an_error_holds_its_unit_back_and_nothing_else(loop: Loop) -> None:
    """The second poll raises: two polls and no third one before its wait is over; the other unit goes on."""
    loop.app.conf.perpetual_error_policies = {"degraded": (600, 600)}
    rule = ErrorRule(ValueError, backoff=600)
    task = loop.task("work", None, ValueError("once"), every=0.01, options={"error_rules": [rule]})
    loop.task("other", every=0.01)
    loop.until(lambda: loop.calls.count("other") >= 20 and loop.status(task)[-1] == "failed", "the other one is polled")
    assert loop.calls.count("work") == 2
    assert {unit.task: unit.state for unit in loop.perpetual.units()} == {"work": "backing_off", "other": "active"}


def test_a_unit_that_fails_now_and_then_goes_on(loop: Loop) -> None:
    """Fine, failed, fine …: with a budget of one failure in a row it is never paused."""
    rule = ErrorRule(ValueError, backoff=0.001, max_attempts=1)
    answers = [None, ValueError("now and then")] * 3
    task = loop.task("work", *answers, every=0.01, options={"error_rules": [rule]})
    loop.until(lambda: len(loop.calls) >= 7, "it goes on")
    assert loop.status(task)[:6] == ["empty", "failed"] * 3
    assert [unit.state for unit in loop.perpetual.units()] == ["active"]


def test_a_deferred_poll_begins_at_its_time_and_errors_do_not_defer_it_again(loop: Loop) -> None:
    """The wait is asked for once; what follows it are the waits of the errors."""
    task = loop.task("work", Defer(0.3), ConnectionError("one"), ConnectionError("two"))
    loop.until(lambda: len(loop.calls) == 4, "it is polled")
    waits = [after - before for before, after in pairwise(loop.times)]
    assert waits[0] >= 0.3
    assert max(waits[1:]) < waits[0] + 1
    assert loop.status(task)[:3] == ["deferred", "failed", "failed"]


def test_a_poll_that_takes_too_long_is_timed_out(loop: Loop) -> None:
    """Without any rule; its unit backs off, waits for the call that has not returned, and is polled again."""
    task = loop.task("work", lambda poll: time.sleep(0.4), poll_timeout=0.1)
    loop.until(lambda: len(loop.calls) == 2, "it is polled again")
    loop.until(lambda: loop.status(task)[-1] == "empty", "with success")
    assert loop.status(task) == ["timed_out", "skipped", "empty"]
    assert 0.9 < loop.times[1] - loop.times[0] < 4, "and not at its next slot, which is an hour away"


def test_one_permanent_error_pauses_one_unit(loop: Loop) -> None:
    """Siblings of the task and other tasks go on: there is no fate in common."""
    rule = ErrorRule(ValueError, error_class="permanent")
    answers = [ValueError("no such account")]
    task = loop.task("work", *answers, every=0.02, tenants=["a", "b", "c"], options={"error_rules": [rule]})
    loop.until(lambda: len(loop.calls) >= 8, "the others are polled")
    (paused,) = (unit for unit in loop.perpetual.units() if unit.state == "paused")
    assert loop.status(task, paused.tenant) == ["failed"]
    assert loop.calls.count(f"work {paused.tenant}") == 1


ODD = ["a:b", "100%", "%3A", "東京 🙂", "x" * 10_240, "perpetual:work:a", " ", "*?[a]"]


def test_odd_names_of_tenants_are_kept_as_they_are(loop: Loop) -> None:
    """Colons, percent signs, other scripts, ten kilobytes: polls, cursors, ends, pauses and waits name them as they are."""
    task = loop.task("work", *[lambda poll: Batch([(poll.tenant,)], cursor=poll.tenant)] * len(ODD), tenants=ODD)
    loop.until(lambda: len(loop.calls) == len(ODD), "all are polled")
    loop.until(lambda: all(loop.status(task, name) for name in ODD), "all have an outcome")
    perpetual = loop.perpetual

    assert [unit.tenant for unit in perpetual.units()] == sorted(ODD)
    for name in ODD:
        assert perpetual.cursor(task, name) == name
        (task_id,) = perpetual.polls(task, name)[0].task_ids
        finish(perpetual, task_id)
        assert perpetual.completion(task_id).tenant == name
        assert perpetual.why(task, name).unit.tenant == name
        assert perpetual.pause(tenant=name, reason="an odd name")
        assert [unit.tenant for unit in perpetual.units() if unit.state == "paused"] == [name]
        assert perpetual.resume(tenant=name) is True
        assert perpetual.nudge(task, name) is True
