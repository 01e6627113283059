"""Whether this beat can do its work while it leads: run the base scheduler, and bring what is due to the broker.

A beat whose schedule file cannot be written, or whose broker or database is out of its reach, must not keep the lead
from others. After a while it steps down and lets them go first. If it is the only beat, it leads again: the perpetual
tasks are polled, and it tries for twice as long before it steps down again. For batches that it cannot publish a sole
beat does not step down: they are on record, and nothing else is gained by a pause of its polls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_perpetual.errors import described

#: A tick that takes longer hangs, in seconds.
LONGEST_TICK = 30.0
#: Trouble for so many seconds makes the leader step down, the first time and at most.
FIRST_PATIENCE, LONGEST_PATIENCE = 3.0, 600.0


class LeadHealth:
    """The errors of the base scheduler's ticks and of publishers; they come on other threads than the questions."""

    def __init__(self) -> None:
        self._tick_begun: float | None = None
        self._failing_since: float | None = None
        self._error = ""
        self._unsent_since: float | None = None
        self._why_unsent = ""
        self._unpublished_since: float | None = None
        self._unpublished_last = 0.0
        self._why_unpublished = ""
        self._why_unkept = ""
        self._patience = FIRST_PATIENCE
        self._stepped_down = 0.0
        """When this beat stepped down the last time, monotonic."""

    def lead_begins(self) -> None:
        """This beat leads from now on; what went wrong in an earlier lead says nothing."""
        self._failing_since = self._unsent_since = self._unpublished_since = None

    def tick_begins(self) -> None:
        """A tick begins while this beat leads."""
        self._tick_begun = time.monotonic()

    def tick_ended(self, error: BaseException | None = None) -> None:
        """The tick has ended."""
        self._tick_begun = None
        if error is None:
            self._failing_since = None
            if not (self._why_unsent or self._why_unpublished):
                self._patience = FIRST_PATIENCE
        else:
            self._error = described(error)
            self._failing_since = self._failing_since or time.monotonic()

    def entry_sent(self, error: BaseException | None = None) -> None:
        """An entry was sent, or could not be, as the broker is out of reach. Celery's own tick does not say so."""
        if error is None:
            self._unsent_since, self._why_unsent = None, ""
        else:
            self._why_unsent = described(error)
            self._unsent_since = self._unsent_since or time.monotonic()

    def published(self, error: BaseException | None = None) -> None:
        """Messages of a batch were published, or could not be, as the broker is out of reach or refuses this user."""
        if error is None:
            self._unpublished_since, self._why_unpublished = None, ""
        else:
            self._why_unpublished = described(error)
            self._unpublished_last = time.monotonic()
            self._unpublished_since = self._unpublished_since or self._unpublished_last

    def kept(self, error: BaseException | None = None) -> None:
        """The base scheduler has stored the runs of entries, or could not; that alone is no reason to step down."""
        self._why_unkept = "" if error is None else described(error)

    @property
    def trouble(self) -> str | None:
        """The present fault."""
        begun = self._hanging_since
        if begun is not None:
            return f"a tick of the base scheduler has not returned for {time.monotonic() - begun:.0f} s"
        if self._failing_since is not None:
            return f"the base scheduler fails: {self._error}"
        if self._unsent_since is not None:
            return f"entries of the schedule cannot be sent: {self._why_unsent}"
        if self._unpublished_since is not None:
            return f"batches cannot be published: {self._why_unpublished}"
        return f"the runs of entries cannot be stored: {self._why_unkept}" if self._why_unkept else None

    @property
    def _hanging_since(self) -> float | None:
        """When the tick began that hangs, if one does."""
        begun = self._tick_begun
        return None if begun is None or time.monotonic() - begun <= LONGEST_TICK else begun

    def why_to_step_down(self, has_standby: Callable[[], bool]) -> str | None:
        """The trouble, if it has lasted for long; asked while this beat leads.

        A batch is tried again only some seconds later: one that has failed once says nothing of the time since then.

        Args:
            has_standby: whether another beat is there to take over.
        """
        since, until, trouble = self._failing_since or self._unsent_since, time.monotonic(), self.trouble
        if (hanging := self._hanging_since) is not None:
            since = max(hanging, self._stepped_down)  # the tick goes on hanging while other beats go first
        is_batches = since is None
        if is_batches:
            since, until = self._unpublished_since, self._unpublished_last
        if trouble is None or since is None or until - since < self._patience:
            return None
        if is_batches and not has_standby():
            return None
        self._stepped_down = time.monotonic()
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self._failing_since = self._unsent_since = self._unpublished_since = None
        return trouble
