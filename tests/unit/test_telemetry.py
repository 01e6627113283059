"""Reports of the code reach the log and every other sink, and harm no caller."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events, telemetry
from celery_perpetual.telemetry import TelemetryEvent, emit

if TYPE_CHECKING:
    from collections.abc import Iterator

# Names that a log record has of itself; a field of such a name would be refused by logging.
OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

NOTED = events.EventKind("noted", logging.WARNING, "something was noted")


@pytest.fixture
def seen() -> Iterator[list[TelemetryEvent]]:
    """Events that a second sink was handed."""
    before, found = telemetry.sinks[:], []
    telemetry.sinks.append(found.append)
    yield found
    telemetry.sinks[:] = before


def test_a_log_record_has_phrase_event_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The record can be found by its event, and names the place that emitted it."""
    emit(events.WORKER_LOST, worker="worker1@host")

    (record,) = caplog.records
    assert record.getMessage() == "perpetual: worker worker1@host is gone"
    assert record.msg == "perpetual: worker %(worker)s is gone"
    assert vars(record)["event"] == "perpetual.worker.lost"
    assert vars(record)["worker"] == "worker1@host"
    assert (record.name, record.levelname, record.filename) == ("celery_perpetual", "WARNING", "test_telemetry.py")


def test_an_event_without_fields_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A phrase without a field is not a template."""
    emit(NOTED)

    assert caplog.messages == ["perpetual: something was noted"]


def test_an_exception_is_shown_with_its_type(caplog: pytest.LogCaptureFixture) -> None:
    """A warning shows an exception in a line, an error shows its traceback too."""
    emit(events.STORE_UNREACHABLE, part="the clock", error=TimeoutError())
    emit(events.PART_FAILED, part="the clock", error=ValueError("no"))

    warning, error = caplog.records
    assert warning.getMessage() == "perpetual: the clock cannot reach the store: TimeoutError: "
    assert vars(warning)["error"] == "TimeoutError: "
    assert warning.exc_info is None
    assert error.exc_info is not None
    assert isinstance(error.exc_info[1], ValueError)


def test_an_exception_without_a_text_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """An exception whose own `__str__` raises hides no event."""

    class Mute(Exception):
        def __str__(self) -> NoReturn:
            raise RuntimeError

    emit(events.STORE_UNREACHABLE, part="the clock", error=Mute())

    assert caplog.messages == ["perpetual: the clock cannot reach the store: Mute: <Mute without a text>"]


def test_every_sink_gets_the_event(seen: list[TelemetryEvent]) -> None:
    """A sink is handed name, data and exception."""
    error = OSError("away")
    emit(events.LEASE_WAITING, task_id="a", error=error)

    (event,) = seen
    assert (event.name, event.data, event.error) == ("lease.waiting", {"task_id": "a"}, error)


def test_a_sink_that_raises_is_logged_once(seen: list[TelemetryEvent], caplog: pytest.LogCaptureFixture) -> None:
    """Neither the caller nor the other sinks notice a broken sink."""

    def broken(event: TelemetryEvent) -> NoReturn:
        raise LookupError(event.name)

    telemetry.sinks.insert(1, broken)
    emit(NOTED)
    emit(events.LEADER_STANDBY)

    assert [event.name for event in seen] == ["noted", "leader.standby"]
    assert [getattr(record, "event", "") for record in caplog.records if "sink" in record.getMessage()] == [
        "perpetual.sink.failed"
    ]


def test_a_soft_time_limit_is_not_the_fault_of_a_sink() -> None:
    """The pool raises it wherever a task is at that moment; it must reach the task."""

    def interrupted(event: TelemetryEvent) -> NoReturn:
        raise SoftTimeLimitExceeded(event.name)

    telemetry.sinks.append(interrupted)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            emit(NOTED)
    finally:
        telemetry.sinks.remove(interrupted)


def test_no_field_has_a_name_that_logging_uses() -> None:
    """Logging refuses such fields, and the event would be lost."""
    assert {kind.name for kind in events.TABLE.values() if OF_EVERY_RECORD & set(kind.fields)} == set()
