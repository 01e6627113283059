"""Preflights: no unit is polled before its own have passed; on the clock of a leading beat."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, ErrorRule, PerpetualOptions, PerpetualTask
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

FAST = {"perpetual_error_policies": {"node": (0.01, 0.01), "service": (0.01, 0.01)}}


class Flights:
    """An app whose preflights and polls are recorded, and the clock of its beat."""

    def __init__(self, watched: WatchedApp) -> None:
        self.app, self.perpetual, self.redis = watched.app, watched.perpetual, watched.redis
        self.calls: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.clocks: list[LeadingClock] = []

    def call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def common(self, name: str, *errors: BaseException) -> None:
        self.errors[name] = list(errors)
        self.perpetual.preflight(lambda: self.call(name), name=name)

    def task(self, name: str, *errors: BaseException, **attributes: Any) -> Any:
        """Make a task whose preflight raises these errors, one after the other."""
        self.errors[f"{name}?"] = list(errors)
        options = {
            key: attributes.pop(key) for key in ("preflight_ttl", "error_rules", "source_key") if key in attributes
        }
        given = {"preflight": lambda tenant: self.call(f"{name}?" if tenant is None else f"{name}? {tenant}")}
        return self.app.task(
            name=name, base=PerpetualTask, shared=False, poll_every=attributes.pop("poll_every", 3600),
            next_batch=lambda poll: self.call(name if poll.tenant is None else f"{name} {poll.tenant}"),
            perpetual_options=PerpetualOptions(**options), **{**given, **attributes},
        )(nothing)  # fmt: skip

    @property
    def clock(self) -> LeadingClock:
        if not self.clocks:
            self.clocks.append(LeadingClock(self.perpetual))
        return self.clocks[-1]

    def restarted(self) -> LeadingClock:
        """Start a beat anew."""
        self.perpetual.__dict__.pop("runner")
        self.clocks.append(LeadingClock(self.perpetual))
        return self.clocks[-1]

    def until(self, *calls: str) -> None:
        def called() -> bool:
            self.clock.turn()
            return len(self.calls) >= len(calls)

        wait_until(called, f"{calls} were called", timeout=20, interval=0.005)
        assert self.calls == list(calls)

    def turn(self, times: int = 20) -> None:
        for _ in range(times):
            self.clock.turn()


@pytest.fixture
def flights(watched_app: Callable[..., WatchedApp]) -> Iterator[Flights]:
    flights = Flights(watched_app(**FAST))
    yield flights
    for clock in flights.clocks:
        clock.close()


def test_preflights_come_before_the_first_poll_and_once(flights: Flights) -> None:
    """Those of the app, then that of the task; what has passed counts, for a beat that is started again too."""
    flights.common("database")
    flights.common("settings")
    task = flights.task("work", poll_every=0.05)
    flights.clock.until_polled(task, 2)
    assert flights.calls[:4] == ["database", "settings", "work?", "work"]
    flights.restarted().until_polled(task, 4)
    assert set(flights.calls[3:]) == {"work"}
    assert 0 < flights.redis.pttl("perpetual:preflight:work") <= 600_000


def test_a_pass_counts_for_its_time(flights: Flights) -> None:
    """Then the preflight runs again."""
    task = flights.task("work", poll_every=0.02, preflight_ttl=0.2)
    flights.clock.until_polled(task, 3)
    flights.turn()
    wait_until(lambda: flights.clock.turn() or flights.calls.count("work?") == 2, "it runs again", interval=0.005)
    assert flights.calls.index("work") < len(flights.calls) - 1


def test_errors_of_the_transport_are_tried_again(flights: Flights) -> None:
    """After the wait of their class; the unit is polled when its preflight has passed."""
    task = flights.task("work", ConnectionError("down"), ConnectionError("down"))
    polls = flights.clock.until_polled(task, 3)
    assert flights.calls == ["work?", "work?", "work?", "work"]
    assert (polls[0].status, polls[0].gate) == ("skipped", "preflight")
    assert polls[-1].status == "empty"
    assert polls[0].reason is not None
    assert polls[0].reason.startswith("preflight:work has failed: ConnectionError: down; it is tried again at ")


def test_the_wait_of_a_preflight_outlives_its_beat(flights: Flights) -> None:
    """A beat that is started again does not try sooner."""

    class Asked(Exception):
        wait_hint = 300

    task = flights.task("work", Asked())
    (poll,) = flights.clock.until_polled(task)
    unit = flights.perpetual.units()[0]
    assert unit.next_poll_at is not None
    assert (unit.next_poll_at - poll.finished_at).total_seconds() == pytest.approx(300, abs=0.5)
    flights.redis.zadd("perpetual:due", {"perpetual:work": flights.perpetual.store.now()})
    flights.restarted().until_polled(task, 2)
    assert flights.calls == ["work?"]


def test_a_hint_of_a_preflight_counts_for_its_source(flights: Flights) -> None:
    """All units with the same source_key leave it alone; units of other sources are polled."""

    class Asked(Exception):
        retry_after = 300

    first = flights.task("first", Asked(), source_key="api")
    second = flights.task("second", source_key="api", poll_every=0.1)
    other = flights.task("other", source_key="another")
    flights.clock.until_polled(first)
    wait_until(
        lambda: flights.clock.turn() or any(poll.gate == "wait_hint" for poll in flights.perpetual.polls(second)),
        "the other unit of the source is held back",
        interval=0.005,
    )
    assert flights.clock.until_polled(other)[-1].status == "empty"
    (held,) = (poll for poll in flights.perpetual.polls(second) if poll.gate == "wait_hint")
    assert 290 < held.value <= 300


def test_one_tenant_holds_up_no_other(flights: Flights) -> None:
    """One has an unknown error, one cannot be reached, one hangs: the others are polled."""
    hangs = threading.Event()

    def preflight(tenant: str) -> None:
        flights.calls.append(tenant)
        if tenant == "broken":
            raise KeyError("no credentials")
        if tenant == "hangs":
            hangs.wait(30)

    tenants = ["a", "broken", "hangs", "z"]
    task = flights.task("work", preflight=preflight, tenants=tenants, poll_timeout=0.3)

    def all_have_ended() -> bool:
        flights.clock.turn()
        return all(flights.perpetual.polls(task, tenant) for tenant in tenants)

    wait_until(all_have_ended, "all have ended", interval=0.005)
    hangs.set()
    ends = {tenant: flights.perpetual.polls(task, tenant)[0] for tenant in tenants}
    assert {tenant: (end.status, end.gate) for tenant, end in ends.items()} == {
        "a": ("empty", None), "broken": ("skipped", "preflight"), "hangs": ("timed_out", None), "z": ("empty", None),
    }  # fmt: skip
    assert sorted(call for call in flights.calls if call.startswith("work ")) == ["work a", "work z"]
    reason = ends["broken"].reason
    assert reason == (
        "preflight:work:broken is parked: KeyError: 'no credentials'; correct it, then restart, or resume or nudge the unit"
    )
    assert reason in str(flights.perpetual.why(task, "broken").to_dict())


def test_a_run_that_hung_has_no_say_after_a_later_one(flights: Flights) -> None:
    """It was run once more and has passed; then the first run raises what would park it: polls go on."""
    hangs, runs = threading.Event(), list[str]()

    def preflight() -> None:
        runs.append("run")
        if len(runs) == 1:
            hangs.wait(60)
            runs.append("raises")
            raise KeyError("no credentials")

    flights.perpetual.preflight(preflight, name="site")
    for name in ("one", "other"):
        flights.task(name, preflight=None, poll_timeout=0.3, poll_every=0.2)

    def polled_since(before: int) -> bool:
        flights.clock.turn()
        return len(flights.calls) > before + 3

    wait_until(lambda: polled_since(0), "units are polled after the second run", interval=0.005)
    hangs.set()
    wait_until(lambda: "raises" in runs, "the first run ends")
    before = len(flights.calls)
    wait_until(lambda: polled_since(before), "units are polled on", interval=0.005)
    assert runs == ["run", "run", "raises"]


def test_a_parked_gate_is_tried_again_when_asked_and_after_a_restart(flights: Flights) -> None:
    """Not at its slots: a nudge asks, and a process that was started later may have other code."""
    task = flights.task("work", KeyError("one"), KeyError("two"), poll_every=0.02)
    flights.clock.until_polled(task, 5)
    assert flights.calls == ["work?"]
    assert flights.clock.threads._threads == 1
    flights.perpetual.nudge(task)
    wait_until(lambda: flights.clock.turn() or len(flights.calls) == 2, "it is tried again", interval=0.005)
    flights.turn()
    assert flights.calls == ["work?", "work?"]
    clock = flights.restarted()
    wait_until(lambda: clock.turn() or "work" in flights.calls, "it is polled", interval=0.005)
    assert flights.calls[:4] == ["work?", "work?", "work?", "work"]


def test_a_common_preflight_gates_every_unit(flights: Flights) -> None:
    """Two phases: nothing is polled before it has passed; parked, it is not run once per unit."""
    flights.common("database", KeyError("wrong password"))
    one, two = flights.task("one", preflight=None), flights.task("two", preflight=None)
    flights.clock.until_polled(one)
    (other,) = flights.clock.until_polled(two)
    assert (other.gate, flights.calls.count("database")) == ("preflight", 1)
    flights.perpetual.nudge(two)
    wait_until(lambda: flights.clock.turn() or "two" in flights.calls, "it is polled", interval=0.005)
    assert flights.calls == ["database", "database", "two"]


def test_rules_count_for_the_preflight_of_a_task(flights: Flights) -> None:
    """With a rule its unknown error is tried again; a spent budget parks."""
    rules = [ErrorRule(KeyError, backoff=0.001, max_attempts=1)]
    task = flights.task("work", KeyError(1), KeyError(2), KeyError(3), error_rules=rules)
    polls = flights.clock.until_polled(task, 2)
    assert "parked" in str(polls[-1].reason)
    assert flights.calls == ["work?", "work?"]


def test_a_poll_by_hand_passes_over_preflights(flights: Flights) -> None:
    """An operator wants to know what the source says."""
    task = flights.task("work", KeyError())
    assert flights.perpetual.poll(task).status == "empty"
    assert flights.calls == ["work"]


def test_coroutines_are_preflights_too(flights: Flights) -> None:
    """They run on the loop of the poll."""

    async def preflight(tenant: Any) -> None:
        flights.calls.append("awaited")

    task = flights.task("work", preflight=preflight)
    flights.clock.until_polled(task)
    assert flights.calls == ["awaited", "work"]


def test_wrong_preflights_are_refused(flights: Flights) -> None:
    """When they are made, or when tasks are read."""

    def needs(first: Any, second: Any) -> None: ...

    with pytest.raises(ContractError, match=r"preflight must take no argument, but .*needs needs first, second"):
        flights.perpetual.preflight(needs)
    flights.common("database")
    with pytest.raises(ContractError, match="preflight 'database': give each preflight a name of its own"):
        flights.perpetual.preflight(nothing, name="database")
    flights.task("work", preflight=needs)
    with pytest.raises(
        ContractError, match=r"^task work .*preflight must take no argument or the tenant, but .*needs needs"
    ):
        flights.perpetual.units()
