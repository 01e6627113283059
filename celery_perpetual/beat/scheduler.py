"""The beat scheduler: perpetual tasks beside the entries of an ordinary Celery scheduler.

Any number of beats may run; the one that leads polls the perpetual tasks and runs the ``beat_schedule``, the others
stand by and fire nothing. Polling lives on threads of its own, so a tick costs what the base scheduler's tick costs
and never waits for the store, a ``next_batch`` or the broker of a poll.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.beat import PersistentScheduler, Scheduler, Service
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

from celery_perpetual.beat.banner import banner
from celery_perpetual.beat.base_runs import BaseRuns
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.memory import Memory
from celery_perpetual.beat.roster import Roster
from celery_perpetual.polling import Pauses, PollThreads, Runner
from celery_perpetual.settings import Settings
from celery_perpetual.store import Store

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

#: Longest sleep between two ticks: what a standby needs to follow at once.
LONGEST_TICK = 0.5
#: What a stopping beat waits for the release of its lead; SIGTERM must end it within seconds.
STOP_WAIT = 3.0


class PerpetualScheduler(Scheduler):
    """Celery's beat scheduler with perpetual tasks, over any base scheduler (``perpetual_base_scheduler``)."""

    _shares_runs = True

    def __new__(cls, app: Celery, **_: Any) -> PerpetualScheduler:  # noqa: PYI034  # a subclass of it, made here
        """Put the configured base scheduler behind this class."""
        base = symbol_by_name(Settings.from_app(app).base_scheduler)
        if issubclass(cls, base):
            return object.__new__(cls)
        # Celery's own schedulers keep last runs beside the process; others share them in a database of their own.
        shared = {"__module__": cls.__module__, "_shares_runs": base in (Scheduler, PersistentScheduler)}
        over: type[PerpetualScheduler] = type(cls.__name__, (cls, base), shared)
        return object.__new__(over)

    def __init__(self, app: Celery, **options: Any) -> None:
        """Set up, and unless ``lazy`` start polling.

        Raises:
            SettingsError: a setting is wrong, or the prefix belongs to another app.
            ContractError: a perpetual task is wrong.
            StoreUnavailable: no contact with the store within ``perpetual_store_wait``.
        """
        self._settings = Settings.from_app(app)
        self._store = Store.from_app(app, self._settings)
        self._base_ready = False
        self._closed = False
        self._leadership: Leadership | None = None
        self._threads: list[Clock | Cycle] = []
        self._base_runs = BaseRuns(self._store)
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        """Discover, reach the store, and try to lead. The base scheduler is set up once this beat leads."""
        if _made_to_be_closed():
            raise SystemExit(0)
        settings, store = self._settings, self._store
        roster = Roster(self.app, settings)
        if getattr(self.app, "perpetual", None) is None:
            logger.warning("perpetual: Perpetual(app) is missing: no worker will tell how items end; see the README")
        store.wait(settings.store_wait)
        leadership = Leadership(
            store,
            app_name=self.app.main or "__main__",
            ttl=settings.leader_ttl,
            events_maxlen=settings.events_maxlen,
        )
        leadership.knows(len(roster.discovery.tasks), roster.discovery.digest())
        runner = Runner(self.app, store, settings.events_maxlen)
        polls = PollThreads(runner.run, settings.poll_threads, settings.max_abandoned_polls)
        clock = Clock(store, leadership, roster, runner, polls)
        memory = Memory(
            store,
            Pauses(store, settings.events_maxlen),
            pause=settings.on_store_lost == "pause",
            events_maxlen=settings.events_maxlen,
        )
        cycle = Cycle(store, leadership, roster, runner, settings.cycle_interval, self._base_runs.save, memory.refresh)
        leadership.start(before_resigning=lambda: _give_up(runner, polls), saw_epoch=memory.saw)
        self._leadership = leadership
        self._threads = [clock, cycle]
        for thread in self._threads:
            thread.start()
        if leadership.leads:
            self._take_over()
        else:
            logger.info("perpetual: standing by", extra={"event": "perpetual.standby"})

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One tick of the base scheduler if this beat leads; seconds to sleep. Never raises."""
        try:
            if self._leadership is None or not self._leadership.leads:
                self._stand_back()
                return LONGEST_TICK
            self._take_over()
            return min(super().tick(*args, **kwargs) or 0.0, LONGEST_TICK)
        except Exception:
            logger.exception("perpetual: a tick of the base scheduler failed")
            return LONGEST_TICK

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a due entry of the base scheduler, and remember when, for whoever leads next."""
        super().apply_entry(entry, producer=producer)
        self._base_runs.ran(entry.name, time.time())

    def close(self) -> None:
        """Release the lead and close the base scheduler.

        Celery calls this twice on SIGTERM, the first time inside a signal handler in the middle of a tick: nothing
        here takes a lock or a connection that the tick may hold.
        """
        if not self._closed:
            self._closed = True
            for thread in self._threads:
                thread.halt()
            if self._leadership is not None:
                self._leadership.stop(STOP_WAIT)
        super().close()

    @property
    def info(self) -> str:
        """Text for beat's banner."""
        return "\n".join(
            filter(None, (banner(self.app, self._settings, self._store, PerpetualScheduler), super().info))
        )

    def _take_over(self) -> None:
        """Set up the base scheduler, with the runs that earlier leaders made."""
        if not self._base_ready:
            super().setup_schedule()
            if self._shares_runs:
                self._restore_runs()
            self._heap = None
            self._base_ready = True

    def _stand_back(self) -> None:
        """Let go of the base scheduler's file and connections, another beat may lead by now."""
        if self._base_ready:
            self._base_ready = False
            super().close()

    def _restore_runs(self) -> None:
        for name, at in self._base_runs.load().items():
            entry = self.schedule.get(name)
            if entry is not None:
                entry.last_run_at = datetime.fromtimestamp(at, tz=self.app.timezone)


def _made_to_be_closed() -> bool:
    """Whether Celery's SIGTERM handler makes this scheduler.

    It closes the scheduler; where the signal came before there was one, it makes one for that, which must not wait for
    the store all over again.
    """
    frame = sys._getframe()  # noqa: SLF001  # nothing else tells
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is Service.sync.__code__:
            return True
    return False


def _give_up(runner: Runner, polls: PollThreads) -> None:
    for claim in polls.running:
        if not claim.committed.is_set():
            runner.give_up(claim)
