"""The connection to the store: explicit timeouts, one repeat over a new connection, errors in our own words.

A :class:`Store` may be shared by threads; after a fork redis-py gives the child connections of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_perpetual import events
from celery_perpetual.errors import SettingsError, StoreRefused, StoreUnavailable
from celery_perpetual.store.address import Address, address, is_redis, without_password
from celery_perpetual.store.keys import Keys
from celery_perpetual.store.limits import Limits
from celery_perpetual.store.refusals import is_refusal, login_trouble
from celery_perpetual.store.wire import Wire
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings

#: A lost reply is asked for once more; every script is harmless when it arrives twice.
REPEATS = 1

#: Steps that may each take the whole time-out, in a call over a connection that turns out to be dead: to ask, to
#: connect anew and to ask again.
STEPS = 3

#: No call is given less time than half of that, in seconds.
SHORTEST_CALL = 0.1


class Store:
    """One namespace in one Redis database."""

    def __init__(
        self, where: Address, prefix: str, limits: Limits, *, timeout: float = 5.0, shown: str = "",
        patient: bool = True,
    ) -> None:  # fmt: skip
        self.address = where
        self.keys = Keys(prefix)
        self.limits = limits
        self.key_table: Mapping[str, str] = vars(self.keys)
        """The values for the keys of scripts, by name."""
        prefixes = {name: key for name, key in self.key_table.items() if name.endswith("prefix")}
        self.constants: Mapping[str, str | int] = {**prefixes, **asdict(limits)}
        """The values for the arguments of scripts, by name."""
        self.timeout = timeout
        self.shown = shown
        self.redis: Any = _client(where, timeout, patient=patient)
        """The client; replies are bytes. Its stubs know sync and async replies only as unions, hence Any."""
        self.wire = Wire(self.redis)
        """For scripts."""
        self._hurried: dict[int, Store] = {}
        """By how many times their longest call is halved."""

    @classmethod
    def from_app(cls, app: Celery, settings: Settings) -> Store:
        """The store that the app's settings name.

        Raises:
            SettingsError: there is no Redis among ``perpetual_store_url``, the broker and the result backend.
        """
        url, options, ssl = _choose(app, settings)
        return cls(
            address(url, options, ssl),
            settings.key_prefix,
            Limits.of(settings),
            timeout=settings.store_timeout,
            shown=without_password(url),
        )

    def clone(self, *, patient: bool = True) -> Store:
        """The same namespace over connections of its own.

        Args:
            patient: False for callers that may not wait: to ask over a connection that turns out to be dead, to
                connect anew and to ask again take at most the timeout together.
        """
        return self._beside(timeout=self.timeout if patient else self.timeout / STEPS, patient=patient)

    def within(self, seconds: float | None) -> Store:
        """The same namespace for one call that may take no longer than that; this store where none takes longer.

        Of a clone that is not patient. Each other time needs connections of its own, so there are few: a half, a
        quarter, … of the longest call.

        Args:
            seconds: None for a caller that has time.
        """
        if seconds is None or (seconds := max(seconds, SHORTEST_CALL)) >= self.timeout * STEPS:
            return self
        halvings = ceil(log2(self.timeout * STEPS / seconds))
        if halvings not in self._hurried:
            self._hurried[halvings] = self._beside(timeout=self.timeout / 2**halvings, patient=False)
        return self._hurried[halvings]

    def _beside(self, *, timeout: float, patient: bool) -> Store:
        return Store(self.address, self.keys.prefix, self.limits, timeout=timeout, shown=self.shown, patient=patient)

    def errors(self, doing: str) -> _Errors:
        """Turn every error of the client into :class:`StoreUnavailable`, within a block.

        Where the server answered that it cannot do this now, the idle connections are closed: a name that stands for
        another server by now leads there only when it is looked up again.
        """
        return _Errors(self, doing)

    def drop_idle_connections(self) -> None:
        """Close the connections that are not in use; the next call connects anew."""
        self.wire.close()
        self.redis.connection_pool.disconnect(inuse_connections=False)

    def now(self) -> int:
        """The store's own time in milliseconds; every decision about time uses it."""
        with self.errors("time"):
            seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def wait(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait for the first contact.

        Args:
            meanwhile: called between two tries; what it raises ends the wait.

        Raises:
            StoreUnavailable: there was none within ``seconds``.
        """
        deadline, is_reported = time.monotonic() + seconds, False
        probe = self._beside(timeout=min(self.timeout, seconds / 2), patient=False)
        while True:
            try:
                probe.now()
                probe.close()
                return
            except StoreUnavailable as error:
                if time.monotonic() >= deadline:
                    raise StoreUnavailable(
                        f"{error}; gave up after {seconds:g} s. Start the server, or set perpetual_store_url "
                        "(or broker_url) to a Redis that runs; perpetual_store_wait sets how long to wait"
                    ) from error
                if not is_reported:
                    is_reported = True
                    emit(events.STORE_AWAITED, seconds=f"{seconds:g}", error=error)
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
            meanwhile()

    def close(self) -> None:
        """Give the connections back."""
        for each in self._hurried.values():
            each.close()
        self.wire.close()
        self.redis.close()
        self.redis.connection_pool.disconnect()


class _Errors:
    """A class, because a generator costs what a call on the wire costs."""

    __slots__ = ("_doing", "_store")

    def __init__(self, store: Store, doing: str) -> None:
        self._store = store
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, RedisError | OSError):
            return
        shown = self._store.shown
        if is_refusal(error):
            self._store.drop_idle_connections()
            if (trouble := login_trouble(error)) is not None:
                raise StoreUnavailable(
                    f"store {shown} wants another login ({self._doing}): {trouble}; write user and password into its "
                    "URL, as in redis://default:PASSWORD@HOST:6379/0"
                ) from error
            raise StoreUnavailable(f"store {shown} is not ready ({self._doing}): {error}") from error
        if isinstance(error, NoConnection | NoAnswer | OSError):
            raise StoreUnavailable(f"store {shown} did not answer ({self._doing}): {error}") from error
        raise StoreRefused(f"store {shown} answered with an error ({self._doing}): {error}") from error


def _choose(app: Celery, settings: Settings) -> tuple[str, Any, Any]:
    conf = app.conf
    if settings.store_url:
        return settings.store_url, conf.broker_transport_options, None
    url = _text(conf.broker_write_url)
    if is_redis(url):
        return url, conf.broker_transport_options, conf.broker_use_ssl
    backend = conf.result_backend
    if is_redis(backend):
        return backend, conf.result_backend_transport_options, conf.redis_backend_use_ssl
    raise SettingsError(
        "celery-perpetual needs a Redis server for its state, and neither the broker "
        f"({without_password(url)}) nor the result backend is one; set perpetual_store_url = 'redis://…'"
    )


def _text(url: Any) -> str:
    """Celery takes a URL, a list of them, or a bare transport name."""
    text = url if isinstance(url, str) else ";".join(url or ())
    return text if "://" in text else f"{text}://"


def _client(where: Address, timeout: float, *, patient: bool) -> Any:
    options: dict[str, Any] = {
        **where.login,
        "db": where.db,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 25 if patient else 0,
        "retry": Retry(NoBackoff(), REPEATS, supported_errors=(NoConnection, NoAnswer)),
        "client_name": "celery-perpetual",
        # Each thread or greenlet may need one at the same moment; a pool that runs out would look like a dead server.
        "max_connections": 2**31,
    }
    if where.kind == "sentinel":
        master, *nodes = where.place
        sentinel: Any = Sentinel(nodes, sentinel_kwargs={"socket_timeout": timeout, **where.extra}, **options)
        return sentinel.master_for(master)
    if where.kind == "socket":
        options.pop("socket_connect_timeout")
        return redis.Redis(unix_socket_path=where.place[0], **options)
    host, port = where.place
    return redis.Redis(host=host, port=port, socket_keepalive=True, **options)
