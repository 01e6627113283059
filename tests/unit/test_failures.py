"""What follows from an error: its class, the wait before the next try, and when there is none."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import urllib.error
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import kombu.exceptions
import pytest
import redis
import requests
import urllib3

from celery_perpetual import ContractError, ErrorClass, ErrorRule, StoreUnavailable
from celery_perpetual.failures.backoff import BackOff
from celery_perpetual.failures.policies import Failure, Policies, Policy


class Told(Exception):
    """An error with the attributes that its maker gives."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("told")
        vars(self).update(attributes)


class Methods(Exception):
    """A client's error, with methods."""

    def wait_duration(self) -> timedelta:
        return timedelta(seconds=7)

    def retryable(self) -> bool:
        return True

    def service_pressure(self) -> bool:
        raise RuntimeError("on purpose")


def wrapped(inner: BaseException, how: str) -> BaseException:
    """Raise another error because of `inner`, and return it."""
    try:
        try:
            raise inner
        except BaseException as error:
            if how == "cause":
                raise ValueError("outer") from error
            if how == "none":
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904  # the context is what is tried
    except ValueError as error:
        return error


def response(status: int, headers: dict[str, str] | None = None) -> requests.HTTPError:
    """Raise what requests raises for a response."""
    found = requests.Response()
    found.status_code, found.url = status, "http://api"
    found.headers.update(headers or {})
    with pytest.raises(requests.HTTPError) as raised:
        found.raise_for_status()
    return raised.value


def of_httpx(status: int, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    """The same of httpx."""
    found = httpx.Response(status, headers=headers, request=httpx.Request("GET", "http://api"))
    with pytest.raises(httpx.HTTPStatusError) as raised:
        found.raise_for_status()
    return raised.value


def of_botocore(status: int, code: str, headers: dict[str, str] | None = None) -> Exception:
    """An error with the response that botocore keeps on its own."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return Told(response={"Error": {"Code": code}, "ResponseMetadata": metadata})


def refused() -> BaseException:
    """What requests really raises where nobody listens."""
    with pytest.raises(requests.ConnectionError) as raised:
        requests.get("http://127.0.0.1:9", timeout=1)
    return raised.value


def after(error: BaseException, counts: dict[str, int] | None = None, *rules: ErrorRule, **more: Any) -> Failure:
    return Policies(**more).after(error, counts or {}, rules)


def kind(error: BaseException) -> str:
    return after(error).kind


NODE = {
    "refused": ConnectionRefusedError(),
    "timeout": TimeoutError(),
    "socket": socket.timeout(),  # noqa: UP041  # the old name
    "dns": socket.gaierror(-2, "Name or service not known"),
    "tls": ssl.SSLError("handshake"),
    "eof": EOFError(),
    "unreachable": OSError(101, "Network is unreachable"),
    "url timeout": urllib.error.URLError(TimeoutError()),
    "url refused": urllib.error.URLError(ConnectionRefusedError()),
    "requests timeout": requests.ReadTimeout(),
    "requests": refused(),
    "requests chunked": requests.exceptions.ChunkedEncodingError(),
    "httpx": httpx.ConnectError("no"),
    "httpx timeout": httpx.PoolTimeout("no"),
    "urllib3": urllib3.exceptions.ProtocolError("no"),
    "kombu": kombu.exceptions.OperationalError("no"),
    "redis": redis.ConnectionError("no"),
    "redis timeout": redis.TimeoutError("no"),
    "ours": StoreUnavailable("no"),
    "caused": wrapped(ConnectionResetError(), "cause"),
    "in a context": wrapped(redis.TimeoutError("no"), "context"),
}

DEGRADED = {
    "any": ValueError(),
    "no file": FileNotFoundError(2, "no"),
    "cut off": wrapped(ConnectionResetError(), "none"),
    "scheme": httpx.UnsupportedProtocol("no"),
    "password": redis.AuthenticationError("no"),
    "url": urllib.error.URLError("unknown url type"),
    "404": response(404),
    "not retryable": Told(retryable=False),
    "exit": SystemExit(500),
    "nonsense": Told(retry_after="soon", status_code="503", retryable="yes", headers=3),
    "hint of a bool": Told(wait_hint=True),
}

SERVICE = {
    "429": response(429),
    "503": response(503),
    "httpx 500": of_httpx(500),
    "urllib 502": urllib.error.HTTPError("http://api", 502, "no", {}, None),  # type: ignore[arg-type]
    "pressure": Told(service_pressure=True),
    "pressure, hint of the past": Told(service_pressure=True, wait_duration=-3),
    "retryable": Told(retryable=True),
    "deep": wrapped(Told(retryable=True), "cause"),
    "throttled": of_botocore(400, "ThrottlingException"),
    "botocore 500": of_botocore(500, "InternalError"),
}

HINTS = {
    "wait_hint": (Told(wait_hint=7), 7000),
    "wait_duration": (Told(wait_duration=0.25), 250),
    "method": (Methods(), 7000),
    "retry_after": (Told(retry_after=3), 3000),
    "header": (response(429, {"Retry-After": "120"}), 120_000),
    "any status": (response(403, {"Retry-After": "2"}), 2000),
    "httpx": (of_httpx(503, {"retry-after": "5"}), 5000),
    "botocore": (of_botocore(503, "SlowDown", {"retry-after": "4"}), 4000),
    "deep": (wrapped(response(429, {"Retry-After": "9"}), "context"), 9000),
}


@pytest.mark.parametrize("name", NODE)
def test_errors_of_the_transport(name: str) -> None:
    """Whatever library they come from, also as the cause of another error."""
    assert kind(NODE[name]) == "node"


@pytest.mark.parametrize("name", DEGRADED)
def test_errors_of_which_nothing_is_known(name: str) -> None:
    """Also errors that look like one of the transport and are a wrong configuration."""
    assert kind(DEGRADED[name]) == "degraded"


@pytest.mark.parametrize("name", SERVICE)
def test_errors_of_a_service_under_pressure(name: str) -> None:
    """The ordinary back-off of the class."""
    found = after(SERVICE[name])
    assert (found.kind, found.hint_ms) == ("service", 0)
    assert 0 <= found.delay_ms <= 5000


@pytest.mark.parametrize("name", HINTS)
def test_hints_are_waited_exactly(name: str) -> None:
    """However often it has failed before."""
    error, expected = HINTS[name]
    found = after(error, {"service": 9})
    assert (found.kind, found.delay_ms, found.hint_ms) == ("service", expected, expected)


def test_a_hint_may_be_a_date_and_is_clamped() -> None:
    """A date counts by the clock of the other side; days are cut to the longest wait."""
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    dates = {"Date": format_datetime(now), "Retry-After": format_datetime(now + timedelta(seconds=90))}
    assert after(response(429, dates)).delay_ms == 90_000
    past = dates | {"Retry-After": format_datetime(now - timedelta(seconds=90))}
    assert after(response(429, past)).hint_ms == 0

    assert after(response(429, {"Retry-After": "864000"})).delay_ms == 3_600_000
    assert after(Told(wait_hint=60), longest_hint=10.0).delay_ms == 10_000


def test_libraries_are_known_without_being_imported() -> None:
    """Of clients that a project does not use nothing is loaded."""
    code = (
        "import sys, celery_perpetual.failures.policies as p; p.DEFAULTS.after(ValueError(), {});"
        "print(*(m for m in ('requests', 'httpx', 'urllib3', 'aiohttp', 'botocore', 'psycopg') if m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("curve", "before", "expected"),
    [
        (BackOff(2000, 120_000), [0, 1, 2, 10], [2000, 4000, 8000, 120_000]),
        (BackOff(1000, 5000, 10.0), [0, 1], [1000, 5000]),
        (BackOff(1000, 0), [3], [8000]),
        (BackOff(1000, 30_000), [0, 1, 2, 3, 4, 99, 10_000], [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]),
    ],
)
def test_back_offs_grow_up_to_their_bound(curve: BackOff, before: list[int], expected: list[int]) -> None:
    """Without a bound too nothing overflows."""
    assert [curve.delay(each) for each in before] == expected
    assert BackOff(1000, 0).delay(10_000) == 365 * 24 * 3600 * 1000


def test_full_jitter() -> None:
    """Waits are spread over the whole time: what failed together does not come back together."""
    waits = [after(ValueError(), {"degraded": 1}).delay_ms for _ in range(2000)]
    assert all(0 <= wait <= 60_000 for wait in waits)
    assert min(waits) < 6000
    assert max(waits) > 54_000
    assert 27_000 < sum(waits) / len(waits) < 33_000


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
    error = Told(wait_hint=60)
    assert after(error, {}, ErrorRule(Told)).delay_ms == 60_000
    assert after(error, {}, ErrorRule(Told, error_class="service")).delay_ms == 60_000
    assert after(error, {}, ErrorRule(Told, backoff=1)).delay_ms == 1000


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


def test_classifiers_of_the_project() -> None:
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


def test_budgets_of_a_class() -> None:
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
