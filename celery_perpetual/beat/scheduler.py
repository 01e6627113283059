"""The beat scheduler: perpetual tasks beside the entries of an ordinary Celery scheduler.

Any number of beats may run; the one that leads polls the perpetual tasks and runs the ``beat_schedule``, the others
stand by and fire nothing. Polling lives on threads of its own (:mod:`.engine`), so a tick costs what the base
scheduler's tick costs and never waits for the store, a ``next_batch`` or the broker of a poll.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from celery.beat import Service
from kombu.exceptions import OperationalError

from celery_perpetual import events
from celery_perpetual.beat.banner import banner
from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.bases.choice import base_of, over
from celery_perpetual.beat.engine import Engine
from celery_perpetual.beat.own_clock import OwnClock
from celery_perpetual.beat.refusal import called_from, in_one_line
from celery_perpetual.call_apart import CallApart
from celery_perpetual.namespace import namespace_of
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


#: Longest sleep between two ticks: what a standby needs to follow at once.
LONGEST_TICK = 0.5
#: Sleep before a time that is less than that away.
SHORTEST_TICK = 0.001
#: When a leader removes the last runs of entries that are gone, in seconds: once behind its start, as programs add
#: entries then, and from time to time.
FORGET_AFTER, FORGET_EVERY = 60.0, 3600.0
#: The longest time for closing the broker's connection.
HANG_UP_SECONDS = 1.0


class PerpetualScheduler(Base):
    """Celery's beat scheduler with perpetual tasks, over any base scheduler (``perpetual_base_scheduler``).

    Its own attributes start with ``_perpetual``, so they never collide with those of the base scheduler.
    """

    _perpetual_term: str | None = None
    """The lead (``owner:term``) for which the base is set up, None while it is not."""
    _perpetual_ticking = False
    _perpetual_forget_at = 0.0

    def __new__(cls, app: Celery, **_: Any) -> PerpetualScheduler:  # noqa: PYI034  # a subclass of it, made here
        """Put the configured base scheduler behind this class."""
        with in_one_line(app):
            made = over(cls, namespace_of(app).settings.base)
        return object.__new__(made)

    def __init__(self, app: Celery, **options: Any) -> None:
        """Set up, and unless ``lazy`` start polling.

        Raises:
            SettingsError: a setting is wrong, or the prefix belongs to another app.
            ContractError: a perpetual task is wrong.
            StoreUnavailable: no contact with the store within ``perpetual_store_wait``.
        """
        with in_one_line(app):
            self._perpetual_clock = OwnClock()
            self._perpetual_engine = Engine(namespace_of(app))
            super().__init__(app, **options)

    def setup_schedule(self) -> None:
        """Start polling. The base scheduler is set up once this beat leads."""
        if _made_to_be_closed():
            _end_requested.set()
            raise SystemExit(0)
        try:
            self._perpetual_engine.start(_heed, self._perpetual_beside)
            with suppress(NotLeading):
                self._perpetual_take_over()
        except BaseException:  # SIGTERM may come at any point of it, and Celery does not know this scheduler yet
            self._perpetual_engine.stop()
            raise

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One tick of the base scheduler if this beat leads; seconds to sleep.

        Raises:
            ClickException: a preflight has failed for good, and ``perpetual_preflight_fatal`` is set.
            SystemExit: the one of SIGTERM was lost.
        """
        if self._perpetual_engine.stopped:
            raise SystemExit(0)
        if reason := self._perpetual_engine.fatal_reason:
            raise click.ClickException(reason)
        self._perpetual_ticking = True
        try:
            if not self._perpetual_engine.leads:
                self._perpetual_stand_back()
                return LONGEST_TICK
            pause = self._perpetual_tick_base(*args, **kwargs)
            # Celery wakes 10 ms early and then asks over and over: what is negative there is nearly due, not due.
            return min(pause, LONGEST_TICK) if pause >= 0 else SHORTEST_TICK
        except Exception as error:
            emit(events.BASE_TICK_FAILED, error=error)
            return LONGEST_TICK
        finally:
            self._perpetual_ticking = False

    def add(self, **entry: Any) -> Any:
        """Add an entry, as programs do at ``beat_init``."""
        return self._perpetual_add(**entry)

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; a broker that is out of reach is trouble of this beat."""
        health = self._perpetual_engine.lead_health
        try:
            result = super().apply_async(entry, *args, **kwargs)
        except Exception as error:
            cause = error.__context__ or error
            if isinstance(cause, (OperationalError, *self.connection.connection_errors)):
                health.entry_sent(cause)
            raise
        health.entry_sent()
        return result

    def sync(self) -> None:
        """As Celery's; a file that cannot be written, as the disk is full, ends neither this beat nor a send."""
        health = self._perpetual_engine.lead_health
        try:
            super().sync()
        except Exception as error:
            health.kept(error)
            emit(events.BASE_SYNC_FAILED, error=error)
        else:
            health.kept()

    def close(self) -> None:
        """Release the lead and close the base scheduler.

        Celery calls this twice on SIGTERM, the first time inside a signal handler in the middle of a tick, whose
        connection stays for the second time: a call on it would notice, and raise what takes SystemExit's place.
        """
        self._perpetual_engine.stop()
        if self._perpetual_ticking and not self._perpetual_closes_in_ticks:
            return
        in_use: dict[str, Any] = {}
        if self._perpetual_ticking:
            in_use = {name: self.__dict__.pop(name) for name in ("connection", "producer") if name in self.__dict__}
        else:
            self._perpetual_hang_up()
        try:
            super().close()
        except Exception as error:
            # Out of Celery's signal handler it would take SystemExit's place, and beat would go on.
            emit(events.BASE_CLOSE_FAILED, error=error)
        self.__dict__.update(in_use)

    @property
    def info(self) -> str:
        """Text for beat's banner."""
        engine = self._perpetual_engine
        lines = banner(self.app, engine.settings, engine.store, PerpetualScheduler, base_of(type(self)))
        return "\n".join(filter(None, (lines, super().info)))

    def _perpetual_tick_base(self, *args: Any, **kwargs: Any) -> float:
        """Tick as the leader; a leader that cannot do that for long steps down."""
        health = self._perpetual_engine.lead_health
        health.tick_begins()
        try:
            self._perpetual_take_over()
            self._perpetual_forget_entries()
            pause = super().tick(*args, **kwargs) or 0.0
        except NotLeading as error:
            health.tick_ended()
            self._perpetual_engine.lead_is_lost(error)
            self._perpetual_stand_back()
            return LONGEST_TICK
        except Exception as error:
            health.tick_ended(error)
            raise
        health.tick_ended()
        return pause

    def _perpetual_take_over(self) -> None:
        """Set up the base scheduler, with the runs that earlier leaders made; anew if this machine's clock is set back.

        Raises:
            NotLeading: this beat does not lead.
        """
        leader = self._perpetual_engine.leader
        if leader is None:
            raise NotLeading
        is_set_back = self._perpetual_clock.is_set_back()
        if leader == self._perpetual_term and not is_set_back:
            return
        # The lead was lost and won again since the last tick, or last runs lie ahead by now and are read anew.
        self._perpetual_stand_back()
        self._perpetual_engine.entry_runs.load()
        self._perpetual_begin()
        self._heap = None
        self._perpetual_forget_at = time.monotonic() + FORGET_AFTER
        self._perpetual_term = leader

    def _perpetual_forget_entries(self) -> None:
        """Remove from the store the runs of entries that do not exist any more."""
        if time.monotonic() > self._perpetual_forget_at:
            self._perpetual_forget_at = time.monotonic() + FORGET_EVERY
            names = self._perpetual_names()
            if names is not None:
                self._perpetual_engine.entry_runs.keep_only(self._perpetual_leader(), names)

    def _perpetual_stand_back(self) -> None:
        """Let go of the base scheduler's file and connections; another beat may lead by now."""
        if self._perpetual_term is not None:
            self._perpetual_term = None
            self._perpetual_engine.entry_runs.forget()
            self._perpetual_hang_up()
            self._perpetual_end()

    def _perpetual_hang_up(self) -> None:
        """Release the connection to the broker, but wait for it only a moment: a frozen broker says nothing."""
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is not None:
            CallApart(connection.release, "perpetual-hang-up").is_over(HANG_UP_SECONDS)


#: Celery's SIGTERM handler ends beat by raising SystemExit, and where the signal comes in the middle of a destructor or
#: a weak reference's callback, Python drops that. So beat also checks this event.
_end_requested = threading.Event()


def _heed() -> None:
    if _end_requested.is_set():
        raise SystemExit(0)


def _made_to_be_closed() -> bool:
    """Whether Celery's SIGTERM handler makes this scheduler.

    It closes the scheduler; where the signal came before there was one, it makes one for that, which must not wait for
    the store all over again.
    """
    return called_from(Service.sync)
