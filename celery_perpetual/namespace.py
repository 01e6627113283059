"""The parts that all operations use: made on first use, so that wiring an app reads nothing and connects nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.completions.announce import Announcer
from celery_perpetual.errors import PerpetualError
from celery_perpetual.failures.policies import Policies
from celery_perpetual.leases.grants import Grants
from celery_perpetual.pauses import Pauses
from celery_perpetual.polling.preflights import Preflights
from celery_perpetual.polling.runner import Runner
from celery_perpetual.settings import Settings
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


class Namespace:
    """One app with its settings, its store, and the parts that write there."""

    app: Celery
    unknown_seams: Callable[[], Sequence[tuple[Any, str]]] = staticmethod(tuple)
    """Returns the seams that are not as known, each with what was seen; set where the app is wired."""
    is_wired = True
    """False where a command has made this for an app that has no ``Perpetual``."""

    @cached_property
    def settings(self) -> Settings:
        """The app's ``perpetual_*`` settings, checked."""
        return Settings.from_app(self.app)

    @cached_property
    def store(self) -> Store:
        """The namespace in Redis."""
        return Store.from_app(self.app, self.settings)

    @cached_property
    def has_store(self) -> bool:
        """Whether the settings are right and name a store.

        Beat and workers refuse to start without one. A process that runs its tasks eagerly, as tests do, needs none.
        """
        try:
            return self.store is not None
        except PerpetualError as error:
            emit(events.WIRING_WITHOUT_STORE, error=error)
            return False

    @cached_property
    def runner(self) -> Runner:
        """Runs polls in this process."""
        settings, policies = self.settings, Policies.of(self.settings)
        preflights = Preflights(
            self.store, policies, self.common_preflights, settings.preflight_ttl, fatal=settings.preflight_fatal
        )
        return Runner(self.app, self.store, policies, preflights)

    @cached_property
    def common_preflights(self) -> dict[str, Callable[[], Any]]:
        """The preflights that every unit needs, by name."""
        return {}

    @cached_property
    def pauses(self) -> Pauses:
        """The pauses, durable in the store."""
        return Pauses(self.store)

    @cached_property
    def announcer(self) -> Announcer:
        """Stores and announces ends; the signal handlers use it."""
        return Announcer(self.app, self.store, lambda: self.grants.ends)

    @cached_property
    def grants(self) -> Grants:
        """Grants leases and takes them back; the guard uses it."""
        return Grants(self.app, self.store, self.settings, down=lambda: self.announcer.down)


def namespace_of(app: Celery) -> Namespace:
    """The namespace of a wired app, or a new one: a beat may run for an app that is not wired."""
    found: Namespace | None = getattr(app, "perpetual", None)
    if found is None:
        found = Namespace()
        found.app = app
    return found
