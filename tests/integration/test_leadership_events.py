"""Events of a beat's lead: one for each change, whichever way it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from celery_perpetual import Perpetual, telemetry
from celery_perpetual.beat import lead_health
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_perpetual.embedded import EmbeddedServer
    from celery_perpetual.telemetry import TelemetryEvent

TTL = 3.0
LEADER = "perpetual:leader"


class Candidate:
    """The leadership of a beat, without the rest of it, and what it reports."""

    def __init__(self, url: str) -> None:
        app = Celery("app", broker=url, set_as_current=False)
        self.perpetual = Perpetual(app)
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.health = LeadHealth()
        self.leadership = Leadership(self.perpetual.store, app_name="app", ttl=TTL, health=self.health)
        self.reported: list[str] = []

    def start(self) -> str | None:
        """Begin; what it leads as."""
        self.leadership.start(before_resigning=lambda _: None, saw_epoch=lambda _: None)
        return self.leadership.value

    def another_leads(self) -> None:
        """Give the lead to another beat, for long."""
        self.redis.set(LEADER, "other:1", ex=60)

    def wait_for(self, *names: str) -> None:
        """Wait for the last of these events; they are all that there are."""
        wait_until(lambda: len(self.reported) >= len(names), f"the events {names}", 10)
        assert self.reported == list(names)

    def stop(self, *names: str) -> None:
        """Stop; these are all events of its life."""
        self.leadership.stop(10)
        assert self.reported == list(names)


@pytest.fixture
def candidate(redis_url: str) -> Iterator[Candidate]:
    """One on the server of all tests."""
    yield from candidate_at(redis_url)


def candidate_at(url: str) -> Iterator[Candidate]:
    made = Candidate(url)

    def note(event: TelemetryEvent) -> None:
        kind, _, change = event.name.partition(".")
        if kind == "leader":
            made.reported.append(change)

    telemetry.sinks.append(note)
    try:
        yield made
    finally:
        made.leadership.stop(10)
        telemetry.sinks.remove(note)
        made.redis.close()
        made.perpetual.app.close()


def test_a_beat_that_never_leads_says_so_once(candidate: Candidate) -> None:
    """It stands by for as long as another one leads, and then gets the lead."""
    candidate.another_leads()
    assert candidate.start() is None
    candidate.wait_for("standby")

    candidate.redis.delete(LEADER)
    candidate.wait_for("standby", "elected")

    candidate.stop("standby", "elected", "resigned")


@pytest.mark.parametrize("times", [1, 2])
def test_a_lead_that_a_part_of_the_beat_finds_lost(candidate: Candidate, times: int) -> None:
    """The clock, or the base scheduler, or both, hear from the store that another beat leads."""
    value = candidate.start()
    assert value is not None
    candidate.another_leads()

    for _ in range(times):
        candidate.leadership.lost(value)

    assert candidate.leadership.value is None
    candidate.wait_for("elected", "lost")
    candidate.stop("elected", "lost")


def test_a_late_refusal_ends_no_newer_lead(candidate: Candidate) -> None:
    """The refused term is over; this beat has got another one since then."""
    first = candidate.start()
    assert first is not None
    candidate.redis.delete(LEADER)
    candidate.leadership.lost(first)
    candidate.wait_for("elected", "lost", "elected")
    second = candidate.leadership.value

    candidate.leadership.lost(first)

    assert second not in (None, first)
    assert candidate.leadership.value == second
    candidate.stop("elected", "lost", "elected", "resigned")


def test_a_lead_that_cannot_be_renewed(candidate: Candidate) -> None:
    """Another beat has it, as the next renewal finds out."""
    candidate.start()

    candidate.another_leads()

    candidate.wait_for("elected", "lost")
    candidate.stop("elected", "lost")


def test_a_lead_that_is_handed_over_or_left_to_others(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby asks for it; later the base scheduler does not work."""
    monkeypatch.setattr(lead_health, "FIRST_PATIENCE", 0.0)
    candidate.start()
    candidate.redis.set(candidate.perpetual.store.keys.handover, "other", px=1500)
    candidate.wait_for("elected", "resigned")
    candidate.wait_for("elected", "resigned", "elected")

    candidate.health.tick_ended()
    candidate.health.tick_ended(OSError("no such file"))

    candidate.wait_for("elected", "resigned", "elected", "stepped_down")
    candidate.stop("elected", "resigned", "elected", "stepped_down")


def test_a_store_that_is_away_for_longer_than_the_lead_is_trusted(
    private_redis: Callable[..., EmbeddedServer],
) -> None:
    """The lead is lost while the store does not answer, and got again when the store is back; then it cannot be given up."""
    server = private_redis()
    for candidate in candidate_at(server.url):
        candidate.start()
        server.stop()
        candidate.wait_for("elected", "lost")
        assert candidate.leadership.value is None

        server.start()
        candidate.wait_for("elected", "lost", "elected")
        server.stop()

        candidate.stop("elected", "lost", "elected", "resign_failed")


def test_an_error_before_a_beat_resigns_does_not_keep_its_lead(candidate: Candidate) -> None:
    """The next leader does not wait until the lead expires."""

    def fail(_: str) -> None:
        raise RuntimeError("a poll could not be given up")

    candidate.leadership.start(before_resigning=fail, saw_epoch=lambda _: None)
    assert candidate.redis.exists(LEADER)
    candidate.stop("elected", "resigned")
    assert not candidate.redis.exists(LEADER)
