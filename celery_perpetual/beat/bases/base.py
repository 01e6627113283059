"""The questions of our scheduler to the one behind it, and the answers for a scheduler that has no file here.

A class of this package stands between the two (:mod:`.choice`): ``PerpetualScheduler`` → the class of the base's kind
→ the base. So ``super()`` means the base here. All methods are called on the thread that ticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.beat import Scheduler

from celery_perpetual.beat.engine import BeatThread, Beside, Engine
from celery_perpetual.faults import reach
from celery_perpetual.polling.claims import NotLeading


class Base(Scheduler):
    """Any scheduler: it is trusted to share the last runs of its entries with other beats by itself."""

    _perpetual_engine: Engine
    _perpetual_closes_in_ticks = True
    """Whether it may be closed by a signal handler in the middle of a tick."""

    def _perpetual_beside(self, beside: Beside) -> Sequence[BeatThread]:  # noqa: ARG002
        """Threads that run as long as the engine does, whether this beat leads or not."""
        return ()

    def _perpetual_begin(self) -> None:
        """Set up the schedule, because this beat leads now. After an exception it is called again."""
        super().setup_schedule()

    def _perpetual_end(self) -> None:
        """Let go of files and connections, because another beat may lead by now, and write nothing."""
        super().close()

    def _perpetual_names(self) -> set[str] | None:
        """The names of all entries, also of those that are not loaded; None where that cannot be said."""
        return None

    def _perpetual_add(self, **entry: Any) -> Any:
        """Add an entry for a program, at any time of this beat's life."""
        return super().add(**entry)

    def reserve(self, entry: Any) -> Any:
        """Move an entry to its next run; every base does that right before it sends the entry.

        Raises:
            NotLeading: another beat leads; the entry must not be sent.
        """
        self._perpetual_claim(entry)
        return super().reserve(entry)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry whose run has been written.

        Raises:
            NotLeading: this beat has been frozen since that write, for so long that another one may lead.
        """
        reach("entry.written")
        self._perpetual_leader()
        super().apply_entry(entry, producer=producer)

    def _perpetual_claim(self, entry: Any) -> None:
        """Write the run to the store, if this beat leads."""
        self._perpetual_engine.entry_runs.begin(self._perpetual_leader(), entry)

    def _perpetual_leader(self) -> str:
        """``owner:term`` of this beat.

        Raises:
            NotLeading: it may not act as the leader.
        """
        leader = self._perpetual_engine.leader
        if leader is None:
            raise NotLeading
        return leader
