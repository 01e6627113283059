"""Put into a project's folder: its processes add the event and its fields to each log line of the package."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from celery_perpetual.event_kind import EventKind

# Attributes of every record; the others are what the code that logged it has added.
COMMON = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "data"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record of the package has beside its message and its event."""
    return {name: value for name, value in vars(record).items() if name not in COMMON and name != "event"}


class ShowEvent(logging.Filter):
    """Adds `` event=perpetual.… {fields}`` to the message of a record that has an event."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record once, whatever the number of handlers; let it pass."""
        event = getattr(record, "event", None)
        if event is not None and not hasattr(record, "is_shown"):
            shown = json.dumps(fields_of(record), default=str).replace("%", "%%")
            record.msg = f"{record.msg} event={event} {shown}"
            record.is_shown = True
        return True


def show_events(logger: logging.Logger, **_: Any) -> None:
    """Receiver of Celery's signal ``after_setup_logger``."""
    for handler in logger.handlers:
        handler.addFilter(ShowEvent())


def logged(caplog: pytest.LogCaptureFixture, kind: EventKind) -> list[dict[str, Any]]:
    """Return the fields of each event of this kind that the test's own process has logged."""
    event = f"perpetual.{kind.name}"
    return [fields_of(record) for record in caplog.records if getattr(record, "event", None) == event]
