"""``ErrorRule``: what a task says itself about errors of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery_perpetual import events
from celery_perpetual.errors import ContractError
from celery_perpetual.failures.backoff import BackOff, Curve, read_curve
from celery_perpetual.failures.classes import ErrorClass, chain
from celery_perpetual.telemetry import emit

#: Waits of a rule that names neither a class nor a back-off.
RULE = BackOff(first_ms=1_000, longest_ms=30_000)
DEFAULT_ATTEMPTS, UNLIMITED = 3, -1


@dataclass(frozen=True, slots=True, init=False)
class ErrorRule:
    """Errors of one kind, with a budget and waits of their own: ``ErrorRule(QuotaError, backoff=(10, 600))``.

    A task's rules come before all other classification, and the first one that matches counts.
    """

    match: Any
    """An exception type, a tuple of types (also of what caused the error), or a function of the error."""
    error_class: ErrorClass | None
    """None: as the error would be classified without rules."""
    backoff: Any
    """Seconds, (first, longest), (first, longest, multiplier), or a function of the failures before; None: those of
    the class, or from 1 second to 30 where the rule names no class."""
    max_attempts: int
    """Tries after the first failure; then the unit is paused. 0: the default; -1: no bound."""
    curve: Curve | None = field(repr=False, compare=False)

    def __init__(
        self, match: Any, error_class: ErrorClass | str | None = None, backoff: Any = None, max_attempts: int = 3
    ) -> None:
        """Check the rule.

        Raises:
            ContractError: an impossible value; the message names field and value.
        """
        is_types = isinstance(match, tuple) and match and all(_is_error_type(each) for each in match)
        if not (is_types or _is_error_type(match) or (callable(match) and not isinstance(match, type))):
            raise ContractError(
                f"ErrorRule: match must be an exception type, a tuple of them or a function of the error, got {match!r}"
            )
        if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < UNLIMITED:
            raise ContractError(
                "ErrorRule: max_attempts must be a whole number, 0 for the default or -1 for no bound, "
                f"got {max_attempts!r}"
            )
        values = {
            "match": match,
            "error_class": None if error_class is None else _class(error_class),
            "backoff": backoff,
            "max_attempts": max_attempts or DEFAULT_ATTEMPTS,
            "curve": None if backoff is None else read_curve("ErrorRule: backoff", backoff),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The name of its counter, also in reports."""
        types = self.match if isinstance(self.match, tuple) else (self.match,)
        return ", ".join(getattr(each, "__qualname__", repr(type(each))) for each in types)

    def matches(self, error: BaseException) -> bool:
        """Whether it is about this error. A function that raises does not match."""
        if isinstance(self.match, tuple | type):
            return any(isinstance(each, self.match) for each in chain(error))
        function: Callable[[BaseException], Any] = self.match
        try:
            return bool(function(error))
        except Exception as raised:  # it is the user's
            emit(events.CLASSIFIER_FAILED, classifier=self.name, error=raised)
            return False


def read_rules(seen: Any) -> tuple[ErrorRule, ...]:
    """The rules of a task.

    Raises:
        ContractError: it is not a list of rules.
    """
    if isinstance(seen, ErrorRule):
        seen = (seen,)
    if not isinstance(seen, tuple | list) or not all(isinstance(rule, ErrorRule) for rule in seen):
        raise ContractError(f"perpetual option error_rules must be a list of ErrorRule(...), got {seen!r}")
    return tuple(seen)


def _is_error_type(seen: Any) -> bool:
    return isinstance(seen, type) and issubclass(seen, BaseException)


def _class(seen: ErrorClass | str) -> ErrorClass:
    try:
        return ErrorClass(seen)
    except ValueError:
        known = ", ".join(ErrorClass)
        raise ContractError(f"ErrorRule: error_class must be one of {known}, got {seen!r}") from None
