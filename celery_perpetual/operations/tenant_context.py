"""One process's memory of a tenant: data that is costly to look up, such as the id of an account at some API."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from celery_perpetual.errors import ContractError
from celery_perpetual.settings import seconds

T = TypeVar("T")

#: Tenants that one process remembers something of; the one that was asked for longest ago goes first.
MOST_TENANTS = 10_000


class TenantContext:
    """Values of one tenant, by name, in this process. Safe to share between threads."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float | None]] = {}

    def get(self, name: str, look_up: Callable[[], T], *, ttl: float | timedelta | None = None) -> T:
        """The value under this name, looked up when there is none. What ``look_up`` raises is raised, and not kept.

        Two threads that find no value both look it up; the later one is kept.

        Args:
            look_up: called without an argument, in this thread.
            ttl: seconds or a ``timedelta`` after which it is looked up again; None: never in this process.

        Raises:
            ContractError: the ttl is no duration.
        """
        known = self._values.get(name)
        if known is not None and (known[1] is None or time.monotonic() < known[1]):
            return known[0]  # type: ignore[no-any-return]
        lasts = None if ttl is None else seconds("ttl of tenant_context", ttl, error=ContractError)
        value = look_up()
        self._values[name] = (value, None if lasts is None else time.monotonic() + lasts)
        return value

    def forget(self, name: str | None = None) -> None:
        """Forget the value under this name, or all of them."""
        if name is None:
            self._values.clear()
        else:
            self._values.pop(name, None)


class TenantContexts:
    """The contexts of one app in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: OrderedDict[str | None, TenantContext] = OrderedDict()

    def of(self, name: str | None) -> TenantContext:
        """The context of the tenant with this name; None stands for the single tenant without a fan-out."""
        with self._lock:
            found = self._contexts.setdefault(name, TenantContext())
            self._contexts.move_to_end(name)
            if len(self._contexts) > MOST_TENANTS:
                self._contexts.popitem(last=False)
            return found
