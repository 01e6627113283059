"""Options of a perpetual task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery import Signature

from celery_perpetual.errors import ContractError
from celery_perpetual.failures.rules import ErrorRule, read_rules
from celery_perpetual.hints import ATTRIBUTES, OPTIONS, hint, nearest
from celery_perpetual.settings import seconds, whole
from celery_perpetual.tasks.retries import Retries
from celery_perpetual.tasks.window import Window, read_window
from celery_perpetual.thresholds import read_thresholds

DEFAULT_RETRIES = Retries()

#: Of a source's key, which is part of a key of the store.
LONGEST_KEY = 200


@dataclass(frozen=True, slots=True, init=False)
class PerpetualOptions:
    """The options of a perpetual task beyond its attributes: ``perpetual_options = PerpetualOptions(limit=500)``.

    Durations are seconds as a number or a ``timedelta``. Unknown names and impossible values are refused at once.
    """

    poll_in: str
    """``beat``, or ``worker``: the poll itself runs as a Celery task on the perpetual task's own queue."""
    overlap: str
    """``allow``, or ``skip``: a unit is not polled while an item of an earlier batch has not ended."""
    jitter: float
    """Seconds by which a poll may come after its slot; the same for one slot on every beat."""
    limit: int
    """Most items of one poll."""
    dedup_window: float
    """Seconds for which an item key stays taken after its task has ended."""
    failed_keys: Retries | None
    """How an item key is held back whose task ended other than by success; None: not at all."""
    low_water: int
    """Items in flight below which the unit is polled at once, so that its queue does not run dry; 0: off."""
    max_interval: float | None
    """Seconds up to which the interval is stretched as long as nothing is found."""
    min_interval: float
    """Seconds between two polls of all units with one ``source_key``, or of one unit without a key."""
    source_key: str | None
    """Units that read the same source share its pace, and the waits that it asks for."""
    max_queue_depth: int | None
    """Messages in the task's queue from which on the unit is not polled."""
    window: Window | None
    """The hours in which the unit is polled: ``"08:00-20:00 Europe/Berlin"``."""
    max_recoveries: int
    """How often a task may be lost with its worker; then it is parked."""
    history: int
    """Outcomes that are kept per unit."""
    tenants_ttl: float | None
    """Seconds after which a ``tenants`` function is called again; None: ``perpetual_tenants_ttl``."""
    preflight_ttl: float | None
    """Seconds for which its preflight counts when it has passed; None: ``perpetual_preflight_ttl``."""
    retry_classified: bool
    """True: a body that raises is retried by Celery, when the class of its error says."""
    enabled: bool
    """False: the task is registered but not polled."""
    completions: bool
    """False: the ends of this task are not announced."""
    on_batch_done: Any
    """A signature that is sent once when a whole batch has ended; it gets the batch's counters as first argument."""
    error_rules: tuple[ErrorRule, ...]
    """The meaning of its own errors; the first rule that matches counts, before all other classification."""
    starvation: Mapping[str, float | None] | None
    """Steps of the starvation ladder that come at other times than the app's: seconds by step, None: off."""
    store_args: bool
    """False: arguments are kept out of events and listings."""
    poll_queue: str | None
    """Where polls that workers evaluate are sent; None: to the queue of the perpetual task."""

    def __init__(
        self,
        *,
        poll_in: str = "beat",
        overlap: str = "allow",
        jitter: float | timedelta = 0.0,
        limit: int = 10_000,
        dedup_window: float | timedelta = 0.0,
        failed_keys: Retries | None = DEFAULT_RETRIES,
        low_water: int = 0,
        max_interval: float | timedelta | None = None,
        min_interval: float | timedelta = 0.0,
        source_key: str | None = None,
        max_queue_depth: int | None = None,
        window: str | Window | None = None,
        max_recoveries: int = 3,
        history: int = 200,
        tenants_ttl: float | timedelta | None = None,
        preflight_ttl: float | timedelta | None = None,
        retry_classified: bool = False,
        enabled: bool = True,
        completions: bool = True,
        on_batch_done: Any = None,
        error_rules: Sequence[ErrorRule] = (),
        starvation: Mapping[str, float | timedelta | None] | None = None,
        store_args: bool = True,
        poll_queue: str | None = None,
        **unknown: Any,
    ) -> None:
        """Check the options.

        Raises:
            ContractError: an unknown name, or an impossible value.
        """
        for name in unknown:
            raise ContractError(_refusal(name))
        values = {
            "poll_in": _choice("poll_in", poll_in, ("beat", "worker")),
            "overlap": _choice("overlap", overlap, ("allow", "skip")),
            "jitter": seconds("perpetual option jitter", jitter, error=ContractError),
            "limit": whole("perpetual option limit", limit, error=ContractError),
            "dedup_window": seconds("perpetual option dedup_window", dedup_window, error=ContractError),
            "failed_keys": _retries("failed_keys", failed_keys),
            "low_water": whole("perpetual option low_water", low_water, least=0, error=ContractError),
            "max_interval": _pause("max_interval", max_interval),
            "min_interval": seconds("perpetual option min_interval", min_interval, error=ContractError),
            "source_key": _source("source_key", source_key),
            "max_queue_depth": None
            if max_queue_depth is None
            else whole("perpetual option max_queue_depth", max_queue_depth, error=ContractError),
            "window": read_window(window),
            "max_recoveries": whole("perpetual option max_recoveries", max_recoveries, least=0, error=ContractError),
            "history": whole("perpetual option history", history, error=ContractError),
            "tenants_ttl": _pause("tenants_ttl", tenants_ttl),
            "preflight_ttl": _pause("preflight_ttl", preflight_ttl),
            "retry_classified": _truth("retry_classified", retry_classified),
            "enabled": _truth("enabled", enabled),
            "completions": _truth("completions", completions),
            "on_batch_done": _signature("on_batch_done", on_batch_done),
            "error_rules": read_rules(error_rules),
            "starvation": None
            if starvation is None
            else read_thresholds("perpetual option starvation", starvation, ContractError),
            "store_args": _truth("store_args", store_args),
            "poll_queue": _queue("poll_queue", poll_queue),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _pause(name: str, seen: Any) -> float | None:
    """A pause between two calls of the user's code, None where the app's setting counts."""
    return None if seen is None else seconds(f"perpetual option {name}", seen, least=0.05, error=ContractError)


def _source(name: str, seen: Any) -> str | None:
    if seen is not None and not (isinstance(seen, str) and 0 < len(seen) <= LONGEST_KEY):
        raise ContractError(f"perpetual option {name} must be a text of at most {LONGEST_KEY} characters, got {seen!r}")
    return seen


def _queue(name: str, seen: Any) -> str | None:
    if seen is not None and not (isinstance(seen, str) and seen):
        raise ContractError(f"perpetual option {name} must be the name of a queue, got {seen!r}")
    return seen


def _truth(name: str, seen: object) -> bool:
    if not isinstance(seen, bool):
        raise ContractError(f"perpetual option {name} must be True or False, got {seen!r}")
    return seen


def _choice(name: str, seen: Any, choices: tuple[str, ...]) -> str:
    if seen not in choices:
        raise ContractError(f"perpetual option {name} must be one of {', '.join(choices)}, got {seen!r}")
    return str(seen)


def _retries(name: str, seen: Any) -> Retries | None:
    if seen is not None and not isinstance(seen, Retries):
        raise ContractError(f"perpetual option {name} must be Retries(...) or None, got {seen!r}")
    return seen


def _signature(name: str, seen: Any) -> Any:
    if seen is not None and not (isinstance(seen, Signature) and not seen.subtask_type):
        raise ContractError(f"perpetual option {name} must be the signature of one task, got {seen!r}")
    return seen


def _refusal(name: str) -> str:
    if name in ATTRIBUTES:
        return f"{name} is an attribute of the task, not a perpetual option; give it to the decorator or the class"
    if (near := nearest(name, [*OPTIONS, *ATTRIBUTES])) in ATTRIBUTES:
        meant = f"did you mean {near}? That is an attribute: give it to the decorator or the class"
        return f"unknown perpetual option {name}, {meant}"
    return f"unknown perpetual option {name}{hint(name, OPTIONS)}"
