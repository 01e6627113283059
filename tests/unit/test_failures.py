"""An error and all that follows from it: its class, the wait before the next try, and when there is none."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import urllib.error
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import kombu.exceptions
import pytest
import redis
import requests
import urllib3

from celery_perpetual import StoreUnavailable
from celery_perpetual.failures.backoff import BackOff
from tests.support.failing import Carrying, after, wrapped


class Methods(Exception):
    """A client's error, with methods."""

    def wait_duration(self) -> timedelta:
        return timedelta(seconds=7)

    def retryable(self) -> bool:
        return True

    def service_pressure(self) -> bool:
        raise RuntimeError("on purpose")


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
    return Carrying(response={"Error": {"Code": code}, "ResponseMetadata": metadata})


def refused() -> BaseException:
    """Return the error that requests raises where no server listens."""
    with pytest.raises(requests.ConnectionError) as raised:
        requests.get("http://127.0.0.1:9", timeout=1)
    return raised.value


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
    "not retryable": Carrying(retryable=False),
    "exit": SystemExit(500),
    "nonsense": Carrying(retry_after="soon", status_code="503", retryable="yes", headers=3),
    "hint of a bool": Carrying(wait_hint=True),
}

SERVICE = {
    "429": response(429),
    "503": response(503),
    "httpx 500": of_httpx(500),
    "urllib 502": urllib.error.HTTPError("http://api", 502, "no", {}, None),  # type: ignore[arg-type]
    "pressure": Carrying(service_pressure=True),
    "pressure, hint of the past": Carrying(service_pressure=True, wait_duration=-3),
    "retryable": Carrying(retryable=True),
    "deep": wrapped(Carrying(retryable=True), "cause"),
    "throttled": of_botocore(400, "ThrottlingException"),
    "botocore 500": of_botocore(500, "InternalError"),
}

HINTS = {
    "wait_hint": (Carrying(wait_hint=7), 7000),
    "wait_duration": (Carrying(wait_duration=0.25), 250),
    "method": (Methods(), 7000),
    "retry_after": (Carrying(retry_after=3), 3000),
    "header": (response(429, {"Retry-After": "120"}), 120_000),
    "any status": (response(403, {"Retry-After": "2"}), 2000),
    "httpx": (of_httpx(503, {"retry-after": "5"}), 5000),
    "botocore": (of_botocore(503, "SlowDown", {"retry-after": "4"}), 4000),
    "deep": (wrapped(response(429, {"Retry-After": "9"}), "context"), 9000),
}


@pytest.mark.parametrize("name", NODE)
def test_errors_of_each_library_have_their_class(name: str) -> None:
    """The class is known for errors of each library, also as the cause of another error."""
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
    assert after(Carrying(wait_hint=60), longest_hint=10.0).delay_ms == 10_000


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


def test_full_jitter_spreads_waits_over_the_whole_time() -> None:
    """Waits are spread over the whole time: what failed together does not come back together."""
    waits = [after(ValueError(), {"degraded": 1}).delay_ms for _ in range(2000)]
    assert all(0 <= wait <= 60_000 for wait in waits)
    assert min(waits) < 6000
    assert max(waits) > 54_000
    assert 27_000 < sum(waits) / len(waits) < 33_000
