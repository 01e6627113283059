"""Errors by which the other side asks for less, or for time.

Nothing is imported: an error is asked for attributes that clients have in common, and so is what caused it.

- ``wait_hint``, ``wait_duration`` or ``retry_after`` above 0, or a ``Retry-After`` among the headers of its response:
  to wait so long, exactly;
- ``service_pressure`` or ``retryable`` that is True;
- a status of 429 or 500 and above;
- botocore's ``response`` with the code of a throttled call.

Attributes may be methods without arguments. One that raises or answers nonsense is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

from celery_perpetual.failures.classes import chain

HINTS = ("wait_hint", "wait_duration", "retry_after")
PRESSURE = ("service_pressure", "retryable")
STATUSES = ("status_code", "status", "code", "http_status")
TOO_MANY, SERVER_ERROR, LAST_STATUS = 429, 500, 599
#: Codes by which AWS says that a call came too often.
THROTTLED = frozenset(
    {
        "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
        "TooManyRequestsException", "ProvisionedThroughputExceededException", "TransactionInProgressException",
        "RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException", "SlowDown",
        "PriorRequestNotComplete", "EC2ThrottledException",
    }
)  # fmt: skip


def wait_hint(error: BaseException) -> float:
    """Seconds for which the other side asks to be left alone; 0 where it does not."""
    return next((hint for each in chain(error) for hint in _hints(each) if hint > 0), 0.0)


def is_service(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the other side is under pressure."""
    causes = list(chain(error))
    if any(_value(each, name) is True for name in PRESSURE for each in causes):
        return True
    return any(_is_pressure(status) for each in causes for status in _statuses(each))


def _hints(error: BaseException) -> Iterator[float]:
    for name in HINTS:
        yield _seconds(_value(error, name))
    for headers in _headers(error):
        yield _retry_after(headers)


def _value(of: Any, name: str) -> Any:
    try:
        found = getattr(of, name, None)
        return found() if callable(found) else found
    except Exception:  # a property or method of the user's may do so
        return None


def _seconds(seen: Any) -> float:
    value = seen.total_seconds() if isinstance(seen, timedelta) else seen
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if is_number else 0.0


def _headers(error: BaseException) -> Iterator[Any]:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        response = response.get("ResponseMetadata")
        yield response.get("HTTPHeaders") if isinstance(response, Mapping) else None
    else:
        yield getattr(response, "headers", None)
    yield getattr(error, "headers", None)


def _retry_after(headers: Any) -> float:
    """Seconds that a ``Retry-After`` asks for, which is a number of them or a date."""
    get = getattr(headers, "get", None)
    if get is None:
        return 0.0
    try:
        text = get("Retry-After") or get("retry-after")
        if text is None:
            return 0.0
        text = str(text).strip()
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return parsedate_to_datetime(text).timestamp() - _date(get("Date") or get("date"))
    except Exception:  # headers are the other side's, and of a type of the client's
        return 0.0


def _date(text: Any) -> float:
    """When the other side sent the response, by its own clock where it says so."""
    return time.time() if text is None else parsedate_to_datetime(str(text)).timestamp()


def _statuses(error: BaseException) -> Iterator[Any]:
    if isinstance(error, SystemExit):
        return  # its code is none of a response
    response = getattr(error, "response", None)
    for each in (error, response):
        for name in STATUSES:
            yield _value(each, name)
    if isinstance(response, Mapping):
        metadata, own = response.get("ResponseMetadata"), response.get("Error")
        yield metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
        if isinstance(own, Mapping) and own.get("Code") in THROTTLED:
            yield TOO_MANY


def _is_pressure(status: Any) -> bool:
    is_number = isinstance(status, int) and not isinstance(status, bool)
    return is_number and (status == TOO_MANY or SERVER_ERROR <= status <= LAST_STATUS)
