"""The ``perpetual_*`` settings: one table, read once, refused when wrong.

Settings are plain Celery settings (``perpetual_leader_ttl``; in Django ``CELERY_PERPETUAL_LEADER_TTL``).
The defaults live here and not in ``app.add_defaults``, which on Celery 5.7 overrides the user's own values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from inspect import isclass
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler
from celery.utils.imports import load_extension_class_names, symbol_by_name

from celery_perpetual.errors import SettingsError, described, shown_value
from celery_perpetual.hints import ATTRIBUTES, OPTIONS, hint
from celery_perpetual.thresholds import DEFAULT, LONGEST, Thresholds, read_thresholds

if TYPE_CHECKING:
    from celery import Celery

PREFIX = "perpetual_"

CHOICES = {
    "completions": ("perpetual", "all"), "on_store_lost": ("pause", "run"), "leases": ("perpetual", "all"),
    "store_down": ("run", "hold"),
}  # fmt: skip

#: No whole number is greater: scripts have none that are.
MOST_WHOLE = 2**53

#: Settings for which less than this many seconds make no sense.
LEAST = {"leader_ttl": 3.0, "lease_ttl": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The validated settings of one app. Durations are seconds."""

    store_url: str | None = None
    """Redis URL of the store; by default the broker if it is Redis, else the result backend if it is Redis."""
    key_prefix: str = "perpetual"
    """Every key and channel starts with it. One app per prefix: a second one refuses to start."""
    base_scheduler: str = "celery.beat:PersistentScheduler"
    """The beat scheduler that runs the app's ordinary ``beat_schedule`` entries: ``module:Class``, or as ``-S``."""
    leader_ttl: float = 15.0
    """Without renewal the leader's term ends after this time; at least 3."""
    lease_ttl: float = 60.0
    """A worker that has not reported for this time is dead: what it ran is sent again; at least 1."""
    heartbeat_interval: float | None = None
    """Pause between two reports of a worker; by default a quarter of ``perpetual_lease_ttl``, at most a third."""
    sweep_limit: int = 1_000
    """Most leases of dead workers that one pass of the leader takes."""
    leases: str = "perpetual"
    """Which tasks run under a lease: ``perpetual`` ones and items, or ``all`` tasks of the app."""
    store_down: str = "run"
    """A task that is about to start while the store does not answer may ``run`` without a lease, or ``hold``."""
    cycle_interval: float = 5.0
    """Pause between two maintenance passes of the leader."""
    poll_threads: int = 8
    """Polls that one beat evaluates at the same time."""
    max_abandoned_polls: int = 16
    """Threads that may hang in an abandoned ``next_batch``; more of them take places of ``perpetual_poll_threads``."""
    completions: str = "perpetual"
    """Whose ends are announced: those of ``perpetual`` tasks and items, or of ``all`` tasks of the app."""
    completion_ttl: float = 3600.0
    """How long the record of an end stays."""
    queue_ttl: float = 300.0
    """How long the one-element queue of an end stays, for ``BLPOP`` from any language."""
    tombstone_ttl: float = 7 * 24 * 3600.0
    """How long the counters of a finished batch stay, by which a late end of one of its items is known."""
    events_maxlen: int = 100_000
    """Approximate length at which the stream of events is capped."""
    on_store_lost: str = "pause"
    """When the store turns out to be another, empty one, or older: ``pause`` units with a cursor and old routines, or
    ``run`` them."""
    store_timeout: float = 5.0
    """Longest time that one call to the store may take."""
    store_wait: float = 30.0
    """How long a starting process waits for its first contact with the store."""
    tenants_ttl: float = 60.0
    """Pause between two calls of a ``tenants`` function."""
    preflight_ttl: float = 600.0
    """How long a preflight that has passed counts."""
    preflight_fatal: bool = False
    """End beat, with an error, when a preflight raises what no next try mends."""
    error_policies: Mapping[str, tuple[float, float, int]] | None = None
    """By class of error: first wait, longest wait, and tries after the first failure (-1: no bound)."""
    classifiers: tuple[Callable[[BaseException], Any], ...] = ()
    """Functions that classify errors which no library is known by."""
    max_wait_hint: float = 3600.0
    """For no longer does it count when the other side asks to be left alone."""
    starvation: Thresholds = DEFAULT
    """Seconds after which a step of the starvation ladder follows, by step; a dict, None switches a step off."""
    starvation_spawn: Callable[..., Any] | None = None
    """A function, or its name, that starts workers; called with ``queue, waiting, oldest_seconds, cause``."""
    max_pool_grow: int = 0
    """Most processes that the ladder adds to the pool of a worker; 0: it adds none."""
    disabled: tuple[str, ...] = ()
    """Names of perpetual tasks that are not polled."""

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and check the settings of ``app``.

        Raises:
            SettingsError: an unknown name (the nearest right one is named) or an impossible value.
        """
        values: dict[str, Any] = {}
        for name, seen in _configured(app).items():
            if name not in _FIELDS:
                raise SettingsError(_unknown(name))
            values[name] = _checked(name, seen)
        settings = cls(**values)
        _must_know_classes(settings)
        if settings.heartbeat > settings.lease_ttl / 3:
            raise SettingsError(
                f"setting {PREFIX}heartbeat_interval must be at most a third of {PREFIX}lease_ttl "
                f"({settings.lease_ttl:g} s), got {settings.heartbeat:g} s"
            )
        return settings

    @property
    def base(self) -> type[Scheduler]:
        """The class that ``perpetual_base_scheduler`` names."""
        return _imported(self.base_scheduler)  # type: ignore[no-any-return]  # checked when the settings were read

    @property
    def heartbeat(self) -> float:
        """Seconds between two reports of a worker."""
        return self.lease_ttl / 4 if self.heartbeat_interval is None else self.heartbeat_interval


_FIELDS = {field.name: field for field in fields(Settings)}


def _configured(app: Celery) -> dict[str, Any]:
    """The settings that the app would answer for: in another namespace, ``PERPETUAL_X`` belongs to another package."""
    given: str | None = app.namespace  # type: ignore[attr-defined]  # missing in the stubs
    namespace = f"{given}_".lower() if given else ""
    names = {key.lower().removeprefix(namespace) for key in app.conf if isinstance(key, str)}
    found = {name: app.conf.get(name) for name in sorted(names) if name.startswith(PREFIX)}
    return {name.removeprefix(PREFIX): value for name, value in found.items() if value is not None}


def _unknown(name: str) -> str:
    if name in (*ATTRIBUTES, *OPTIONS):
        return f"unknown setting {PREFIX}{name}: {name} belongs to a task, as an attribute or in PerpetualOptions"
    return f"unknown setting {PREFIX}{name}{hint(name, _FIELDS, prefix=PREFIX)}"


def _checked(name: str, seen: Any) -> Any:
    if name in _READERS:
        return _READERS[name](seen)
    default = _FIELDS[name].default
    if isinstance(default, float) or name == "heartbeat_interval":
        return seconds(f"setting {PREFIX}{name}", seen, least=LEAST.get(name, 0.05))
    if isinstance(default, bool):
        if not isinstance(seen, bool):
            raise SettingsError(f"setting {PREFIX}{name} must be True or False, got {seen!r}")
        return seen
    if isinstance(default, int):
        return whole(f"setting {PREFIX}{name}", seen)
    if name in CHOICES and seen not in CHOICES[name]:
        raise SettingsError(f"setting {PREFIX}{name} must be one of {', '.join(CHOICES[name])}, got {seen!r}")
    if not isinstance(seen, str) or not seen.strip():
        raise SettingsError(f"setting {PREFIX}{name} must be a non-empty string, got {seen!r}")
    return _scheduler(name, seen) if name == "base_scheduler" else seen


def _disabled(seen: Any) -> tuple[str, ...]:
    """Names of tasks, or tasks."""
    what = f"setting {PREFIX}disabled must be a list of task names"
    if isinstance(seen, str | bytes | Mapping) or not isinstance(seen, Iterable):
        raise SettingsError(f"{what}, got {seen!r}")
    names: tuple[Any, ...] = tuple(getattr(each, "name", each) for each in seen)
    for each in names:
        if not isinstance(each, str):
            raise SettingsError(f"{what}, got {each!r} in it")
    return names


#: Classes of errors that are always there.
ERROR_CLASSES = ("node", "service", "degraded")


def _error_policies(seen: Any) -> dict[str, tuple[float, float, int]]:
    """By class: (first, longest) or (first, longest, attempts)."""
    what = f"setting {PREFIX}error_policies"
    if not isinstance(seen, Mapping):
        raise SettingsError(f"{what} must be a dict of class to (first, longest), got {seen!r}")
    found = {}
    for name, policy in seen.items():
        if not isinstance(policy, tuple | list) or not 2 <= len(policy) <= 3:
            raise SettingsError(
                f"{what}: {name!r} must be (first, longest) or (first, longest, attempts), got {policy!r}"
            )
        first = seconds(f"{what}: {name!r}: the first wait", policy[0], least=0.001)
        longest = seconds(f"{what}: {name!r}: the longest wait", policy[1], least=first)
        attempts = policy[2] if len(policy) == 3 else -1
        if attempts != -1:
            attempts = whole(f"{what}: {name!r}: attempts", attempts)
        found[str(name)] = (first, longest, attempts)
    return found


def _classifiers(seen: Any) -> tuple[Callable[[BaseException], Any], ...]:
    """Functions, or their names."""
    what = f"setting {PREFIX}classifiers"
    if isinstance(seen, str) or callable(seen):
        seen = (seen,)
    if not isinstance(seen, Iterable):
        raise SettingsError(f"{what} must be a list of functions or of their names (module.function), got {seen!r}")
    return tuple(_function(what, each, "of the error") for each in seen)


def _function(what: str, seen: Any, kind: str) -> Callable[..., Any]:
    """A function, or its name."""
    try:
        function = symbol_by_name(seen)
    except Exception as error:  # whatever the import of a module raises
        raise SettingsError(f"{what}: {seen!r} cannot be imported: {described(error)}") from None
    if not callable(function):
        raise SettingsError(f"{what}: {seen!r} must be a function {kind}, got {function!r}")
    return function  # type: ignore[no-any-return]


def _must_know_classes(settings: Settings) -> None:
    """Only classifiers of the project know other classes than ours."""
    for name in () if settings.classifiers else settings.error_policies or ():
        if name not in ERROR_CLASSES:
            raise SettingsError(
                f"setting {PREFIX}error_policies: no error is of the class {name!r} without {PREFIX}classifiers"
                f"{hint(name, ERROR_CLASSES)}"
            )


def _starvation(seen: Any) -> Thresholds:
    what = f"setting {PREFIX}starvation"
    return DEFAULT.replaced(what, read_thresholds(what, seen), SettingsError)


def _spawn(seen: Any) -> Callable[..., Any]:
    return _function(f"setting {PREFIX}starvation_spawn", seen, "that takes keywords")


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "error_policies": _error_policies, "classifiers": _classifiers, "starvation": _starvation,
    "starvation_spawn": _spawn, "disabled": _disabled,
    "max_pool_grow": lambda seen: whole(f"setting {PREFIX}max_pool_grow", seen, least=0),
}  # fmt: skip


def _scheduler(name: str, seen: str) -> str:
    try:
        found = _imported(seen)
    except Exception as error:  # whatever the import of a module raises
        raise SettingsError(
            f"setting {PREFIX}{name} must be written as module:Class, or be the name that -S takes, "
            f"and {seen!r} cannot be imported: {described(error)}"
        ) from None
    if not (isclass(found) and issubclass(found, Scheduler)):
        raise SettingsError(
            f"setting {PREFIX}{name} must name a class of celery.beat.Scheduler, got {seen!r}, which is {found!r}"
        )
    if found.__module__.partition(".")[0] == __package__:
        raise SettingsError(
            f"setting {PREFIX}{name} must name the scheduler behind ours, got {seen!r}, which is ours; "
            f"set beat_scheduler = {seen!r} instead"
        )
    return seen


def _imported(scheduler: str) -> Any:
    """The object behind a dotted path or a name of the entry points, as ``celery beat -S`` reads it."""
    names: Any = load_extension_class_names("celery.beat_schedulers")
    return symbol_by_name(scheduler, aliases=dict(names))


def seconds(what: str, seen: object, *, least: float = 0.0, error: type[Exception] = SettingsError) -> float:
    """A duration given as a number of seconds or a ``timedelta``, checked."""
    value = seen.total_seconds() if isinstance(seen, timedelta) else seen
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LONGEST <= value <= LONGEST:
        raise error(f"{what} must be seconds (a number or a timedelta), got {shown_value(seen)}")
    if value < least:
        raise error(f"{what} must be at least {least:g} seconds, got {value:g}")
    return float(value)


def whole(what: str, seen: object, *, least: int = 1, error: type[Exception] = SettingsError) -> int:
    """A whole number, checked."""
    if isinstance(seen, bool) or not isinstance(seen, int) or seen < least:
        raise error(f"{what} must be a whole number of at least {least}, got {shown_value(seen)}")
    if seen > MOST_WHOLE:
        raise error(f"{what} must be at most {MOST_WHOLE}, got {shown_value(seen)}")
    return seen
