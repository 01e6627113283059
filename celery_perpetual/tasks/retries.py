"""``Retries``: when work that has failed is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any

from celery_perpetual.errors import ContractError, shown_value
from celery_perpetual.settings import seconds, whole
from celery_perpetual.tasks.items import UNSET
from celery_perpetual.thresholds import LONGEST

#: The fields, in their order.
FIELDS = ("max_attempts", "backoff", "multiplier", "max_backoff", "jitter")


@dataclass(frozen=True, slots=True, init=False)
class Retries:
    """After which waits failed work is tried again, and how often: ``Retries(max_attempts=5, backoff=60)``.

    The wait after the first failure in a row is ``backoff``; each further failure multiplies it, up to ``max_backoff``.
    Durations are seconds as a number or a ``timedelta``.
    """

    max_attempts: int | None
    """Failures in a row after which it is not tried again: an item key is parked, a routine gives up the slot. None:
    never."""
    backoff: float
    """The first wait, seconds; 0: none. A routine without ``max_attempts`` waits at least 0.1 seconds."""
    multiplier: float
    """Each further failure multiplies the wait by this; at least 1."""
    max_backoff: float | None
    """The longest wait, seconds; None: any."""
    jitter: bool
    """Lengthen a wait by up to a quarter, but not over ``max_backoff``, so that what failed together is spread."""
    given: frozenset[str] = field(compare=False, repr=False)
    """Names of the fields that the caller has given."""

    def __init__(
        self,
        max_attempts: int | None = UNSET,
        backoff: float | timedelta = UNSET,
        multiplier: float = UNSET,
        max_backoff: float | timedelta | None = UNSET,
        jitter: bool = UNSET,
    ) -> None:
        """Check the values. A field that is not given is as the place of use says; see :meth:`with_usual`.

        Raises:
            ContractError: an impossible value; the message names field and value.
        """
        fields = zip(FIELDS, (max_attempts, backoff, multiplier, max_backoff, jitter), strict=True)
        given = {name: value for name, value in fields if value is not UNSET}
        checked = {name: _CHECKS[name](value) for name, value in given.items()}
        values = {**_OF_FAILED_KEYS, **checked}
        first, longest = values["backoff"], values["max_backoff"]
        if longest is not None and longest < first:
            if "max_backoff" in given:
                raise ContractError(
                    f"Retries: max_backoff must be at least backoff ({first:g} seconds), got {longest:g}"
                )
            values["max_backoff"] = first
        for name, value in {**values, "given": frozenset(given)}.items():
            object.__setattr__(self, name, value)

    def with_usual(self, usual: Retries) -> Retries:
        """The same where the fields that were not given are those of ``usual``."""
        values = {name: getattr(self if name in self.given else usual, name) for name in FIELDS}
        longest = values["max_backoff"]
        if "max_backoff" not in self.given and longest is not None:
            values["max_backoff"] = max(longest, values["backoff"])
        return Retries(**values)

    @property
    def values(self) -> tuple[int | None, float, float, float | None, bool]:
        """The values of :data:`FIELDS`."""
        return self.max_attempts, self.backoff, self.multiplier, self.max_backoff, self.jitter

    @property
    def curve(self) -> str:
        """The same as scripts read it, see ``include/hold_key.lua``; milliseconds."""
        longest = LONGEST if self.max_backoff is None else self.max_backoff
        first, most = round(self.backoff * 1000), round(longest * 1000)
        return f"{self.max_attempts or 0}|{first}|{self.multiplier!r}|{most}|{int(self.jitter)}"


def _most(value: Any) -> int | None:
    return None if value is None else whole("Retries: max_attempts", value, error=ContractError)


def _longest(value: Any) -> float | None:
    return None if value is None else seconds("Retries: max_backoff", value, error=ContractError)


def _multiplier(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1 <= value < inf:
        raise ContractError(f"Retries: multiplier must be a number of at least 1, got {shown_value(value)}")
    if value > LONGEST:
        raise ContractError(f"Retries: multiplier must be at most {LONGEST:g}, got {shown_value(value)}")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ContractError(f"Retries: jitter must be True or False, got {shown_value(value)}")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "max_attempts": _most,
    "backoff": lambda value: seconds("Retries: backoff", value, error=ContractError),
    "multiplier": _multiplier,
    "max_backoff": _longest,
    "jitter": _truth,
}
#: The fields that are not given, where a task says nothing else.
_OF_FAILED_KEYS: dict[str, Any] = {
    "max_attempts": None, "backoff": 30.0, "multiplier": 2.0, "max_backoff": 3600.0, "jitter": True
}  # fmt: skip
