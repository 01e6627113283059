"""``Retries``: when work that has failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

from celery_perpetual.errors import ContractError
from celery_perpetual.settings import seconds, whole


@dataclass(frozen=True, slots=True, init=False)
class Retries:
    """After which waits failed work is tried again, and how often: ``Retries(max_attempts=5, backoff=60)``.

    The wait after the first failure in a row is ``backoff``; each further failure multiplies it, up to ``max_backoff``.
    Durations are seconds as a number or a ``timedelta``.
    """

    max_attempts: int | None
    """Failures in a row after which it is parked: not tried again until an operator acts. None: never."""
    backoff: float
    """The first wait, seconds; 0: none."""
    multiplier: float
    """What each further failure multiplies the wait by; at least 1."""
    max_backoff: float
    """The longest wait, seconds."""
    jitter: bool
    """Lengthen a wait by up to a quarter, but not over ``max_backoff``, so that what failed together is spread."""

    def __init__(
        self,
        max_attempts: int | None = None,
        backoff: float | timedelta = 30.0,
        multiplier: float = 2.0,
        max_backoff: float | timedelta = 3600.0,
        jitter: bool = True,
    ) -> None:
        """Check the values.

        Raises:
            ContractError: an impossible value; the message names field and value.
        """
        if max_attempts is not None:
            max_attempts = whole("Retries: max_attempts", max_attempts, error=ContractError)
        first = seconds("Retries: backoff", backoff, error=ContractError)
        longest = seconds("Retries: max_backoff", max_backoff, error=ContractError)
        if longest < first:
            raise ContractError(f"Retries: max_backoff must be at least backoff ({first:g} seconds), got {longest:g}")
        is_number = isinstance(multiplier, int | float) and not isinstance(multiplier, bool)
        if not is_number or not isfinite(multiplier) or multiplier < 1:
            raise ContractError(f"Retries: multiplier must be a number of at least 1, got {multiplier!r}")
        if not isinstance(jitter, bool):
            raise ContractError(f"Retries: jitter must be True or False, got {jitter!r}")
        values = {
            "max_attempts": max_attempts, "backoff": first, "multiplier": float(multiplier), "max_backoff": longest,
            "jitter": jitter,
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def curve(self) -> str:
        """The same as scripts read it, see ``include/failed_key.lua``; milliseconds."""
        first, longest = round(self.backoff * 1000), round(self.max_backoff * 1000)
        return f"{self.max_attempts or 0}|{first}|{self.multiplier!r}|{longest}|{int(self.jitter)}"
