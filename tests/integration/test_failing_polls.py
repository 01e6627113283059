"""Polls that fail: what they wait, what is counted, and when the unit is paused; on the clock of a leading beat."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ErrorRule, PerpetualOptions, Poll
from celery_perpetual.events import POLL_GAVE_UP
from tests.support.event_log import logged
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

UNIT = "perpetual:app.work"


class Source:
    """A source that fails as the test says."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors, self.polls = list(errors), list[Poll]()

    def __call__(self, poll: Poll) -> list[Any]:
        self.polls.append(poll)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return []


class Pressed(Exception):
    """An error of a client whose other side asks it to wait."""

    retryable = True

    def __init__(self, wait: float) -> None:
        super().__init__("too many requests")
        self.wait_hint = wait


@pytest.fixture
def leading(watched_app: Callable[..., WatchedApp]) -> Iterator[Callable[..., tuple[LeadingClock, Any]]]:
    """Make an app with one task, and its clock."""
    clocks: list[LeadingClock] = []

    def make(next_batch: Any, config: dict[str, Any] | None = None, **options: Any) -> tuple[LeadingClock, Any]:
        app = watched_app(**(config or {}))
        task = app.task([], next_batch=next_batch, perpetual_options=PerpetualOptions(**options))
        clocks.append(LeadingClock(app.perpetual))
        return clocks[-1], task

    yield make
    for clock in clocks:
        clock.close()


def waits(clock: LeadingClock) -> float:
    """Seconds from the end of the unit's last poll to its next one."""
    due = clock.store.redis.zscore(clock.store.keys.due, UNIT)
    return (due - int(clock.store.redis.hget(clock.store.keys.unit(UNIT), "polled"))) / 1000


def stored(clock: LeadingClock, name: str) -> bytes | None:
    found: bytes | None = clock.store.redis.hget(clock.store.keys.unit(UNIT), name)
    return found


def test_classes_wait_by_their_policy_and_count_until_a_success(leading: Callable[..., Any]) -> None:
    """Each class has a count of its own, which outlives the process that polls; the first success forgets them."""
    source = Source(ConnectionError("a"), ConnectionError("b"), ValueError("c"), None)
    policies = {"node": (0.02, 0.02), "degraded": (0.02, 0.02)}
    clock, task = leading(source, {"perpetual_error_policies": policies})

    polls = clock.until_polled(task, 2)
    assert stored(clock, "failures") == b'{"node": 2}'
    another = LeadingClock(clock.perpetual)  # a beat that was started again
    polls = another.until_polled(task, 3)
    another.close()
    assert stored(clock, "failures") == b'{"node": 2, "degraded": 1}'
    polls = clock.until_polled(task, 4)

    assert [(poll.status, poll.error_class) for poll in polls] == [
        ("failed", "node"), ("failed", "node"), ("failed", "degraded"), ("empty", None),
    ]  # fmt: skip
    assert [poll.attempt for poll in source.polls] == [0, 1, 2, 3]
    assert [poll.trigger for poll in source.polls] == ["schedule", "backoff", "backoff", "backoff"]
    assert (stored(clock, "failures"), stored(clock, "attempt")) == (None, None)


def test_a_hint_is_waited_exactly(leading: Callable[..., Any]) -> None:
    """And clamped where it asks for too much."""
    clock, task = leading(Source(Pressed(45.5)))
    (poll,) = clock.until_polled(task)
    assert (poll.status, poll.error_class) == ("failed", "service")
    assert waits(clock) == 45.5
    assert clock.perpetual.units()[0].state == "backing_off"


@pytest.mark.parametrize(
    ("error", "rules"),
    [
        (KeyError("a"), [ErrorRule(KeyError, backoff=lambda failures: 0, max_attempts=-1)]),
        (KeyError("a"), [ErrorRule(KeyError, backoff=0.001, max_attempts=-1)]),
        (Pressed(0.001), []),
    ],
    ids=["a function", "a rule", "a hint"],
)
def test_no_poll_follows_on_a_failed_one_without_a_pause(
    leading: Callable[..., Any], error: Exception, rules: list[ErrorRule]
) -> None:
    """A rule, a function or an error of the user's asks for less."""
    clock, task = leading(Source(error), error_rules=rules)
    clock.until_polled(task)
    assert waits(clock) == 0.1


def test_an_absurd_hint_is_clamped(leading: Callable[..., Any]) -> None:
    """By the setting."""
    clock, task = leading(Source(Pressed(864_000)), {"perpetual_max_wait_hint": 600})
    clock.until_polled(task)
    assert waits(clock) == 600


def test_a_spent_budget_pauses_the_unit(leading: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """With its reason and an event; resumed, it has the whole budget again."""
    source = Source(*(KeyError(n) for n in range(5)))
    clock, task = leading(source, error_rules=[ErrorRule(KeyError, backoff=0.001, max_attempts=1)])
    with caplog.at_level(logging.ERROR, "celery_perpetual"):
        polls = clock.until_polled(task, 2)

    assert [bool(poll.reason) for poll in polls] == [False, True]
    (unit,) = clock.perpetual.units()
    assert unit.state == "paused"
    assert "2 failures in a row (rule KeyError), and 1 tries after the first are allowed: KeyError: 1" in unit.reason
    (gave_up,) = logged(caplog, POLL_GAVE_UP)
    assert gave_up["unit"] == UNIT
    assert [entry[1][b"event"] for entry in clock.store.redis.xrange(clock.store.keys.events)][-1] == b"pause"
    for _ in range(20):
        clock.turn()
    assert len(source.polls) == 2

    assert clock.perpetual.resume(task)
    clock.until_polled(task, 4)
    assert clock.perpetual.units()[0].state == "paused"
    assert len(source.polls) == 4


def test_permanent_pauses_at_once(leading: Callable[..., Any]) -> None:
    """After one call, also of a poll by hand."""
    source = Source(PermissionError("key revoked"), PermissionError("key revoked"))
    clock, task = leading(source, error_rules=[ErrorRule(PermissionError, error_class="permanent")])
    (poll,) = clock.until_polled(task)
    assert (poll.error_class, clock.perpetual.units()[0].state) == ("permanent", "paused")

    clock.perpetual.resume(task, from_="kept")
    assert clock.perpetual.poll(task).status == "failed"
    assert clock.perpetual.units()[0].state == "paused"
    assert len(source.polls) == 2


def test_classifiers_are_functions_of_the_project(leading: Callable[..., Any]) -> None:
    """By name or as they are; with a policy for a class of the project's own."""
    config = {
        "perpetual_classifiers": ["tests.support.leading.classify"],
        "perpetual_error_policies": {"quota": (0.01, 0.01, 1)},
    }
    clock, task = leading(Source(ValueError("quota"), ValueError("quota")), config)
    polls = clock.until_polled(task, 2)
    assert [poll.error_class for poll in polls] == ["quota", "quota"]
    assert clock.perpetual.units()[0].state == "paused"
