"""After how long a wait for a worker which step of the starvation ladder follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

from celery_perpetual.errors import SettingsError
from celery_perpetual.hints import hint

#: No duration is longer than a thousand years; the comparison refuses infinity and NaN too.
LONGEST = 1000 * 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Seconds for which an item has been runnable and has not been started; None: the step is off."""

    notice: float | None = 120.0
    """It is reported, with the cause."""
    wake: float | None = 300.0
    """The workers that consume its queue open their consumers of it anew."""
    spawn: float | None = 600.0
    """More workers are asked for."""
    event: float | None = 900.0
    """The item itself is reported."""
    park: float | None = 3600.0
    """It waits for an operator, if its queue has no consumer."""

    @property
    def first(self) -> float | None:
        """That of the first step; None: all are off."""
        return min((value for _, value in self.steps), default=None)

    def replaced(self, what: str, given: Mapping[str, float | None], error: type[Exception]) -> Thresholds:
        """These with some values replaced.

        Raises:
            error: a step would come before an earlier one.
        """
        found = replace(self, **given)
        for (earlier, before), (later, after) in pairwise(found.steps):
            if after < before:
                raise error(
                    f"{what}: {later} ({after:g} s) must not come before {earlier} ({before:g} s); steps that are not "
                    "given are as in perpetual_starvation, or its default; None switches a step off"
                )
        return found

    @property
    def steps(self) -> list[tuple[str, float]]:
        """The steps that are on, in their order."""
        every = ((step, getattr(self, step)) for step in STEPS)
        return [(step, value) for step, value in every if value is not None]


DEFAULT = Thresholds()

#: In the order in which they follow.
STEPS = tuple(field.name for field in fields(Thresholds))


def read_thresholds(what: str, seen: object, error: type[Exception] = SettingsError) -> dict[str, float | None]:
    """The thresholds that a user gives, each checked by itself.

    Raises:
        error: no dict, an unknown step, or a value that is neither None nor a positive duration.
    """
    if not isinstance(seen, Mapping):
        raise error(f"{what} must be a dict of step to seconds, like {{'notice': 60}}, got {seen!r}")
    found: dict[str, float | None] = {}
    for step, value in seen.items():
        if step not in STEPS:
            raise error(f"{what}: unknown step {step!r}{hint(step, STEPS)}")
        found[str(step)] = None if value is None else _positive(f"{what}: {step}", value, error)
    return found


def _positive(what: str, seen: Any, error: type[Exception]) -> float:
    value = seen.total_seconds() if isinstance(seen, timedelta) else seen
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST:
        raise error(f"{what} must be None, or seconds above 0 (a number or a timedelta), got {seen!r}")
    return float(value)
