"""The arguments that a call of a user's function must give, and may give."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one function; of one that does not say, a call may give one argument and must give none."""

    needed: tuple[str, ...] = ()
    """Names of the arguments that a call must give."""
    by_name: bool = False
    """One of them can only be given by its name."""
    takes_one: bool = True
    """Whether a call may give an argument by its place."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Parameters:
        """Read them."""
        try:
            found = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return cls()
        needed = [p for p in found if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return cls(
            needed=tuple(p.name for p in needed),
            by_name=any(p.kind is p.KEYWORD_ONLY for p in needed),
            takes_one=any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in found),
        )

    def need_more(self, given: int) -> bool:
        """Whether a call fails that gives so many arguments, each by its place."""
        return len(self.needed) > given or self.by_name
