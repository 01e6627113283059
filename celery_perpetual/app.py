"""``Perpetual(app)``: wires an app and gives access to every operation; it decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from celery import Celery

from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.beat.cycle_result import CycleResult
from celery_perpetual.errors import ContractError
from celery_perpetual.operations.exits import ExitOperations
from celery_perpetual.operations.health import HealthOperations
from celery_perpetual.operations.leases import LeaseOperations
from celery_perpetual.operations.pausing import PauseOperations
from celery_perpetual.operations.rebuilding import Rebuild, RebuildResult
from celery_perpetual.operations.routines import RoutineOperations
from celery_perpetual.operations.stats import Stats, read_stats
from celery_perpetual.operations.tenancy import TenantOperations
from celery_perpetual.tasks.discovery import load
from celery_perpetual.wiring import wire


class Perpetual(
    RoutineOperations, PauseOperations, LeaseOperations, ExitOperations, TenantOperations, HealthOperations
):
    """celery-perpetual for one Celery app; also ``app.perpetual``.

    Making it reads no configuration and opens no connection. Its operations may be called from any process and
    thread that has the app; each base class brings those of one area.
    """

    def __init__(self, app: Celery | None = None) -> None:
        """Wire ``app``, or later one given to :meth:`init_app`.

        Raises:
            ContractError: it is no Celery app.
        """
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Celery) -> Perpetual:
        """Connect worker signals, and make ``celery beat`` use our scheduler where the app has Celery's default.

        An app may be wired twice: ``app.perpetual`` is the newest object then, and all have the same preflights.

        Raises:
            ContractError: it is no Celery app, or this object has another one already.
        """
        if not isinstance(app, Celery):
            raise ContractError(f"Perpetual(app) takes a Celery app, got {app!r}")
        own = vars(self).setdefault("app", app)
        if own is not app:
            raise ContractError(f"this Perpetual has the app {own.main!r} already; make another for {app.main!r}")
        if isinstance(earlier := getattr(app, "perpetual", None), Perpetual):
            self.common_preflights = earlier.common_preflights
        app.perpetual = self
        self.unknown_seams = wire(app)
        return self

    @cached_property
    def app(self) -> Celery:  # type: ignore[override]  # a namespace always has one
        """The Celery app.

        Raises:
            ContractError: there is none yet.
        """
        raise ContractError("this Perpetual() has no app yet: call its init_app(app) first")

    def cycle(self) -> CycleResult:
        """Run one maintenance pass here, as the leader does every ``perpetual_cycle_interval`` seconds.

        It publishes what is committed and not published, sends tasks of dead workers again, and tidies up; each step
        is atomic per entry, so it may run beside a leader or another pass. It waits for a hook of the starvation ladder
        that it calls, for half a minute at most. A task whose message was lost without a trace is found by comparing
        passes, so it takes several of one process.

        Raises:
            StoreUnavailable: the store did not answer. Errors of single steps are in the result.
        """
        return self._cycle.once(is_alone=True)

    def stats(self) -> Stats:
        """The sums over all passes of all processes, and the counters that scripts keep.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return read_stats(self.store)

    def rebuild(self, *, progress: Callable[[str, int], object] | None = None) -> RebuildResult:
        """Derive every index from the records, and report what was wrong.

        For a store that was repaired by hand, or restored in parts. These are the indexes of batches and their items,
        item keys, units and their due times, leases of workers, tasks that are lost or parked, and routines. It reads
        every record of the namespace, and holds the store up for some milliseconds at a time. Work may go on meanwhile.

        Args:
            progress: called with a kind of records and how many of them were read.

        Raises:
            StoreUnavailable: the store did not answer at all. Errors of single parts are in the result.
        """
        return Rebuild(self, progress).run()

    @cached_property
    def _cycle(self) -> Cycle:
        return Cycle(self, lambda: load(self.app))
