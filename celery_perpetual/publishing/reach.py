"""Whether this process can use the broker. Another one may, where only its network or its login is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_perpetual.broker.questions import connection_for_questions
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.publishing.refused import Refused

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.work_list import WorkList


#: A broker that answers, and refuses everything for so many seconds, is of no use to this process.
PATIENCE = 3.0

#: Seconds after which a refusal says nothing of now; what is refused is tried again sooner.
MEMORY = 600.0


class Reach:
    """Reports what publishers find; they run on several threads."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.heard: Callable[[Exception | None], object] = lambda _: None
        """Called with None when messages were published, and with an error when this process cannot use the broker."""
        self.failed = False
        """Whether the last report was an error."""
        self._refuses_since: float | None = None
        """Since when the broker has refused whatever came, monotonic."""
        self._refused_last = 0.0
        """When it has refused something for the last time, monotonic."""

    def report(self, error: Exception | None = None) -> None:
        """Report an error of the broker, or that none is left."""
        self.failed = error is not None
        if error is None:
            self._refuses_since = None
        self.heard(error)

    def report_if_done(self, outbox: WorkList) -> None:
        """Report that no error is left, where other processes have published what could not be published here.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        if self.failed and outbox.is_empty():
            self.report()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Report an error of the block, if it says that, and pass it on."""
        try:
            yield
        except Exception as error:
            if self._is_out_of_reach(error):
                self.report(error)
            raise

    def _is_out_of_reach(self, error: Exception) -> bool:
        if isinstance(error, StoreUnavailable | Refused | SoftTimeLimitExceeded):
            return False
        connection: Any = self._app.connection_for_write()
        of_connections = (OperationalError, *connection.connection_errors)
        if isinstance(error, connection.channel_errors) or isinstance(error.__cause__, connection.channel_errors):
            return self._refuses_all() or not broker_answers(self._app)
        return isinstance(error, of_connections) or not broker_answers(self._app)

    def _refuses_all(self) -> bool:
        """Whether the broker has accepted nothing for a while; it may refuse one queue and take what others get."""
        now = time.monotonic()
        since = self._refuses_since  # another thread may forget it
        if since is None or now - self._refused_last > MEMORY:
            since = now
        self._refuses_since, self._refused_last = since, now
        return now - since >= PATIENCE


def broker_answers(app: Celery) -> bool:
    """Ask the broker for a channel."""
    try:
        with connection_for_questions(app) as connection:
            channel: Any = connection.channel()
            channel.close()
    except Exception:  # of any kind: the broker cannot be used
        return False
    return True
