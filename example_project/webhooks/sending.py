"""One HTTP request to one endpoint, and the meaning of its answer."""

from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cache

import httpx

from webhooks.models import Delivery

TIMEOUT = 10.0  # seconds; an endpoint that takes longer is asked again later


@dataclass(frozen=True)
class Answer:
    """`status` is None when there was no answer; `retry_after` is the endpoint's own wish in seconds."""

    status: int | None
    problem: str = ""
    retry_after: float | None = None

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def permanent(self) -> bool:
        """Asking again would not help: the endpoint understood us and does not want this."""
        return self.status is not None and 300 <= self.status < 500 and self.status not in {408, 429}


@cache
def client() -> httpx.Client:
    """One per process, made on first use and so after the worker's fork; it keeps connections open."""
    return httpx.Client(timeout=TIMEOUT)


def post(delivery: Delivery) -> Answer:
    headers = {
        "Content-Type": "application/json",
        # A delivery may arrive twice (its worker can die after sending); this lets the endpoint notice.
        "Idempotency-Key": str(delivery.pk),
        "X-Event": delivery.event,
    }
    try:
        response = client().post(delivery.endpoint.url, content=delivery.body(), headers=headers)
    except httpx.TransportError as error:
        return Answer(None, f"{type(error).__name__}: {error}")
    problem = "" if response.is_success else f"HTTP {response.status_code}"
    return Answer(response.status_code, problem, seconds(response.headers.get("Retry-After")))


def seconds(retry_after: str | None) -> float | None:
    """The header comes as a number of seconds or as a date; anything else is no wish."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())
