"""The values that ``next_batch`` may return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final


class _Unset:
    """Stands for "not given" where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = _Unset()


@dataclass(frozen=True, slots=True, init=False)
class Item:
    """One task to enqueue.

    ``args`` and ``kwargs`` are the task's; ``key`` makes two items "the same work" within the unit (str or int;
    without it a digest of task and arguments; ``False`` opts out of de-duplication); ``task`` is another task or its
    name; everything else are ``apply_async`` options (``queue``, ``priority``, ``countdown`` …).
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    key: Any
    task: Any
    options: Mapping[str, Any]

    def __init__(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        key: Any = UNSET,
        task: Any = None,
        **options: Any,
    ) -> None:
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", {} if kwargs is None else kwargs)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "options", options)


@dataclass(frozen=True, slots=True)
class Batch:
    """Items together with the cursor that stands behind the last of them.

    Items and cursor become true in one step. A batch with a cursor is never cut.
    """

    items: Iterable[Any] = ()
    cursor: Any = field(default=UNSET, kw_only=True)
    """Any JSON value; the unit's next poll gets it as ``Poll.cursor``."""
    more: bool = field(default=False, kw_only=True)
    """There is more to read: poll again at once."""
    watermark: datetime | None = field(default=None, kw_only=True)
    """How far the source has been read; reported as the source's lag."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing this time, and why."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Defer:
    """Nothing now; poll again after this time instead of at the next slot."""

    after: float | timedelta
    """Seconds, or a timedelta; at least 0.1 seconds."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause the unit until an operator resumes it."""

    reason: str = ""
