"""The one place that decides what follows from a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_perpetual import events
from celery_perpetual.failures.backoff import SHORTEST_MS, BackOff, Curve
from celery_perpetual.failures.classes import ErrorClass
from celery_perpetual.failures.rules import RULE, UNLIMITED, ErrorRule
from celery_perpetual.failures.service import is_service, wait_hint
from celery_perpetual.failures.transport import is_transport
from celery_perpetual.settings import Settings
from celery_perpetual.telemetry import emit
from celery_perpetual.times import ms

#: Of polls that run out of time, or end with their process: nothing is known of why.
DEGRADED = BackOff(first_ms=30_000, longest_ms=300_000)


@dataclass(frozen=True, slots=True)
class Policy:
    """The treatment of the errors of one class."""

    curve: Curve
    max_attempts: int = UNLIMITED
    """Tries after the first failure; then the unit is paused."""


POLICIES: Mapping[str, Policy] = {
    ErrorClass.NODE.value: Policy(BackOff(first_ms=2_000, longest_ms=120_000)),
    ErrorClass.SERVICE.value: Policy(BackOff(first_ms=5_000, longest_ms=300_000)),
    ErrorClass.DEGRADED.value: Policy(DEGRADED),
}

#: A user's classifier answers a class, the name of one, one with seconds to wait, or None for "I do not know".
Classifier = Callable[[BaseException], Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, classified."""

    kind: str
    """``node``, ``service``, ``degraded``, ``permanent``, or a class of the project's own."""
    counter: str = ""
    """Which count of failures in a row it adds to: that of its class, or of its rule."""
    delay_ms: int = 0
    """How long to wait before the next try."""
    hint_ms: int = 0
    """How long the other side has asked to wait; 0: it has not."""
    gives_up: str = ""
    """Why there is no next try; empty: there is one."""
    is_by_rule: bool = False
    """A rule of the task has matched."""
    has_budget: bool = False
    """A rule or a policy says how many tries there are."""

    @property
    def poll_delay_ms(self) -> int:
        """The same for polls and preflights, which are tried without end: never without a pause."""
        return max(self.delay_ms, SHORTEST_MS)

    def counted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts of failures in a row with this one."""
        return {**counts, self.counter: counts.get(self.counter, 0) + 1}


class Policies:
    """Classifies errors by rules, libraries and classifiers, and answers what follows. Threads may share it."""

    def __init__(
        self,
        policies: Mapping[str, Policy] | None = None,
        classifiers: Iterable[Classifier] = (),
        longest_hint: float = 3600.0,
    ) -> None:
        """Without arguments: the defaults.

        Args:
            policies: by class, beside those of :data:`POLICIES`.
            classifiers: of the project.
            longest_hint: seconds; for no longer does a hint of the other side count.
        """
        self._policies = {**POLICIES, **(policies or {})}
        self._classifiers = tuple(classifiers)
        self._longest_hint_ms = ms(longest_hint)

    @classmethod
    def of(cls, settings: Settings) -> Policies:
        """Those of an app."""
        given = {
            name: Policy(BackOff(ms(first), ms(longest)), attempts)
            for name, (first, longest, attempts) in (settings.error_policies or {}).items()
        }
        return cls(given, settings.classifiers, settings.max_wait_hint)

    def after(
        self, error: BaseException, counts: Mapping[str, int], rules: Sequence[ErrorRule] = (), about: str = ""
    ) -> Failure:
        """Class and wait of an error. Runs rules and classifiers, which are code of the user's.

        Args:
            counts: failures in a row before this one, by :attr:`Failure.counter`.
            rules: of the task, the first that matches counts.
            about: what has failed, for the log.
        """
        return self._after(error, counts.get, rules, about)

    def after_tries(
        self, error: BaseException, tries: int, rules: Sequence[ErrorRule] = (), about: str = ""
    ) -> Failure:
        """The same where one count of earlier tries stands for all classes and rules, as Celery's retries do."""
        return self._after(error, lambda *_: tries, rules, about)

    def _after(
        self, error: BaseException, count_of: Callable[[str, int], int], rules: Sequence[ErrorRule], about: str
    ) -> Failure:
        rule = next((rule for rule in rules if rule.matches(error)), None)
        if rule is not None and rule.error_class is not None:
            kind, asked = rule.error_class.value, 0.0
        else:
            kind, asked = self._classify(error)
        if kind == ErrorClass.PERMANENT.value:
            why = f"an error of the class permanent ({type(error).__name__}); no next try helps"
            return Failure(kind, kind, gives_up=why)
        counter = kind if rule is None else f"rule {rule.name}"
        policy = self._policy(kind) if rule is None else self._policy_of(rule)
        before = count_of(counter, 0)
        if policy.max_attempts != UNLIMITED and before >= policy.max_attempts:
            return Failure(kind, counter, gives_up=_spent(counter, before, policy))
        hint = self._hint(error, asked, about) if rule is None or rule.curve is None else 0
        return Failure(
            kind, counter, hint or self._spread(policy.curve, before), hint,
            is_by_rule=rule is not None, has_budget=rule is not None or policy.max_attempts != UNLIMITED,
        )  # fmt: skip

    def unknown(self, counts: Mapping[str, int]) -> Failure:
        """Class and wait where nothing is known of the error, or nothing was raised. Runs no code of the user's."""
        kind = ErrorClass.DEGRADED.value
        policy, before = self._policy(kind), counts.get(kind, 0)
        if policy.max_attempts != UNLIMITED and before >= policy.max_attempts:
            return Failure(kind, kind, gives_up=_spent(kind, before, policy))
        return Failure(kind, kind, self._spread(policy.curve, before))

    def _classify(self, error: BaseException) -> tuple[str, float]:
        """The class of an error, and seconds that a classifier says are to be waited."""
        if is_transport(error):
            return ErrorClass.NODE.value, 0
        if wait_hint(error) or is_service(error):
            return ErrorClass.SERVICE.value, 0
        for classifier in self._classifiers:
            try:
                answer = classifier(error)
                kind, wait = answer if isinstance(answer, tuple) else (answer, 0)
                if kind is not None:
                    return str(kind), max(0.0, float(wait or 0))
            except Exception as raised:  # it is the user's
                name = getattr(classifier, "__qualname__", repr(classifier))
                emit(events.CLASSIFIER_FAILED, classifier=name, error=raised)
        return ErrorClass.DEGRADED.value, 0

    def _policy(self, kind: str) -> Policy:
        return self._policies.get(kind) or self._policies[ErrorClass.DEGRADED.value]

    def _policy_of(self, rule: ErrorRule) -> Policy:
        of_class = RULE if rule.error_class is None else self._policy(rule.error_class.value).curve
        return Policy(rule.curve or of_class, rule.max_attempts)

    def _hint(self, error: BaseException, asked: float, about: str) -> int:
        wanted = ms(asked or wait_hint(error))
        if wanted > self._longest_hint_ms:
            emit(events.HINT_CLAMPED, what=about, asked=wanted / 1000, longest=self._longest_hint_ms / 1000)
        return min(wanted, self._longest_hint_ms)

    def _spread(self, curve: Curve, before: int) -> int:
        try:
            return curve.spread(before)
        except Exception as raised:  # a back-off function of the user's
            emit(events.CLASSIFIER_FAILED, classifier="backoff", error=raised)
            return DEGRADED.spread(before)


def _spent(counter: str, before: int, policy: Policy) -> str:
    return f"{before + 1} failures in a row ({counter}), and {policy.max_attempts} tries after the first are allowed"


#: Those of an app that says nothing.
DEFAULTS = Policies()
