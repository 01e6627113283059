"""Error rules and policies: each with a budget and waits of its own, the first that matches counts."""

from __future__ import annotations

from typing import Any

import pytest

from celery_perpetual import ContractError, ErrorClass, ErrorRule
from celery_perpetual.failures.backoff import BackOff
from celery_perpetual.failures.policies import Failure, Policy
from tests.support.failing import Carrying, after, wrapped


def run(error: BaseException, *rules: ErrorRule, times: int, **more: Any) -> list[Failure]:
    """Fail so often in a row with the same error."""
    counts: dict[str, int] = {}
    found: list[Failure] = []
    for _ in range(times):
        found.append(after(error, counts, *rules, **more))
        counts = found[-1].counted(counts)
    return found


def test_a_rule_has_a_budget_and_waits_of_its_own() -> None:
    """Budget two: two more tries, and the third failure is the last; the function hears how many failed before."""
    asked: list[int] = []

    def waits(before: int) -> float:
        asked.append(before)
        return 0.001

    found = run(KeyError("x"), ErrorRule(KeyError, backoff=waits, max_attempts=2), times=3)
    assert [(each.delay_ms, bool(each.gives_up)) for each in found] == [(1, False), (1, False), (0, True)]
    assert asked == [0, 1]
    assert "rule KeyError" in found[-1].gives_up
    assert "2 tries" in found[-1].gives_up

    assert [bool(each.gives_up) for each in run(KeyError(), ErrorRule(KeyError), times=4)] == [False] * 3 + [True]
    assert [bool(each.gives_up) for each in run(KeyError(), ErrorRule(KeyError, max_attempts=0), times=4)][-1]
    endless = run(KeyError(), ErrorRule(KeyError, max_attempts=-1), times=100)
    assert not [each for each in endless if each.gives_up]
    assert all(each.delay_ms <= 30_000 for each in endless)


def test_rules_come_first_and_count_by_themselves() -> None:
    """The first that matches, before what the libraries say; other errors do not use its budget up."""
    rules = (
        ErrorRule(ConnectionError, backoff=0.001),
        ErrorRule((KeyError, IndexError), backoff=2, max_attempts=1),
        ErrorRule(Exception, error_class=ErrorClass.SERVICE),
    )
    assert (after(ConnectionResetError(), {}, *rules).kind, after(ConnectionResetError(), {}, *rules).delay_ms) == (
        "node",
        1,
    )
    assert after(wrapped(ConnectionResetError(), "cause"), {}, *rules).delay_ms == 1
    assert after(IndexError(), {}, *rules).delay_ms == 2000
    assert after(ValueError(), {"rule Exception": 1}, *rules).delay_ms <= 10_000
    assert after(ValueError(), {}, *rules).kind == "service"

    counts: dict[str, int] = {}
    for error in (KeyError(), ConnectionError(), KeyError()):
        last = after(error, counts, *rules)
        counts = last.counted(counts)
    assert last.gives_up
    assert counts == {"rule KeyError, IndexError": 2, "rule ConnectionError": 1}


def test_a_rule_with_waits_of_its_own_passes_over_the_hint() -> None:
    """And one without waits keeps it."""
    error = Carrying(wait_hint=60)
    assert after(error, {}, ErrorRule(Carrying)).delay_ms == 60_000
    assert after(error, {}, ErrorRule(Carrying, error_class="service")).delay_ms == 60_000
    assert after(error, {}, ErrorRule(Carrying, backoff=1)).delay_ms == 1000


def test_permanent_is_never_tried_again() -> None:
    """By rule, or by a classifier of the project."""
    assert after(KeyError(), {}, ErrorRule(KeyError, error_class="permanent")).gives_up
    found = after(KeyError(), classifiers=[lambda _: ErrorClass.PERMANENT])
    assert (found.kind, bool(found.gives_up)) == ("permanent", True)


def test_functions_match_and_one_that_raises_does_not() -> None:
    """The next rule counts then."""
    rules = (ErrorRule(lambda error: error.missing), ErrorRule(lambda error: "x" in str(error), backoff=3))
    assert after(ValueError("x"), {}, *rules).delay_ms == 3000
    assert after(ValueError("y"), {}, *rules).kind == "degraded"


def test_classifiers_of_the_project_are_asked_last() -> None:
    """Asked behind the libraries, in order; a class without a policy waits as degraded does, a wait counts."""

    def broken(error: BaseException) -> Any:
        raise RuntimeError("on purpose")

    def quota(error: BaseException) -> Any:
        return {"quota": "quota", "later": ("quota", 90), "node": ErrorClass.NODE}.get(str(error))

    more: dict[str, Any] = {"classifiers": [broken, quota]}
    assert after(ConnectionError("quota"), **more).kind == "node"
    assert after(ValueError("quota"), **more).kind == "quota"
    assert after(ValueError("quota"), **more).delay_ms <= 30_000
    assert after(ValueError("later"), **more).delay_ms == 90_000
    assert after(ValueError("node"), **more).kind == "node"
    assert after(ValueError("else"), **more).kind == "degraded"
    fast = {"quota": Policy(BackOff(10, 10), 1)}
    found = run(ValueError("quota"), times=2, policies=fast, **more)
    assert [bool(each.gives_up) for each in found] == [False, True]
    assert found[0].delay_ms <= 10


def test_a_budget_ends_with_its_last_try() -> None:
    """Two tries after the first: the third failure is the last."""
    policies = {"node": Policy(BackOff(1, 1), 2)}
    found = run(ConnectionError(), times=3, policies=policies)
    assert [bool(each.gives_up) for each in found] == [False, False, True]
    assert "node" in found[-1].gives_up


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"match": None}, "match must be an exception type"),
        ({"match": "KeyError"}, "match must be an exception type"),
        ({"match": 42}, "match must be an exception type"),
        ({"match": int}, "match must be an exception type"),
        ({"match": ()}, "match must be an exception type"),
        ({"match": (KeyError, "x")}, "match must be an exception type"),
        ({"match": KeyError, "max_attempts": -5}, "max_attempts must be .* got -5"),
        ({"match": KeyError, "max_attempts": 1.5}, "max_attempts must be .* got 1.5"),
        ({"match": KeyError, "backoff": 0}, "backoff must be at least 0.001 seconds"),
        ({"match": KeyError, "backoff": (0, 5)}, "the first wait must be at least 0.001 seconds"),
        ({"match": KeyError, "backoff": (5, 1)}, "the longest wait must be at least the first one"),
        ({"match": KeyError, "backoff": (1, 5, 0)}, "the multiplier must be a number of at least 1, got 0"),
        ({"match": KeyError, "backoff": "slow"}, "backoff must be seconds, .first, longest"),
        ({"match": KeyError, "error_class": "nodes"}, "error_class must be one of node, service, degraded, permanent"),
    ],
)
def test_impossible_rules_are_refused(arguments: dict[str, Any], message: str) -> None:
    """When they are made, with field and value."""
    with pytest.raises(ContractError, match=message):
        ErrorRule(**arguments)
