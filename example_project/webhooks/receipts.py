"""Receipts of the endpoints: each endpoint is asked for them, as a tenant of one perpetual task.

Endpoints are other people's programs. One is down, another one asks for a pause, a third has no token yet, the token of
a fourth is wrong. Nothing here handles that, but for one rule: each endpoint is backed off, waited for or paused by
itself, and the others do not notice. The unit's cursor is the number of the last receipt that was read.
"""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from celery_perpetual import Batch, ErrorRule, Item, PerpetualOptions, PerpetualTask, Poll
from webhooks.models import Delivery, Endpoint
from webhooks.sending import client

PAGE = 100  # most receipts of one answer
UNAUTHORIZED = 401


class NoToken(Exception):
    """The customer has not given us a token."""


class WrongToken(Exception):
    """The endpoint does not take our token: asking again would not help."""


def endpoints() -> list[str]:
    """The tenants. An endpoint that is added is asked within a minute, one that is removed is not asked any more."""
    return list(Endpoint.objects.order_by("pk").values_list("name", flat=True))


def token_is_there(name: str) -> None:
    """The preflight of an endpoint: without a token it is not asked at all."""
    if not Endpoint.objects.get(name=name).token:
        raise NoToken(f"{name} has given us no token")


def receipts(poll: Poll) -> Batch | None:
    """Receipts behind the last one that was read, a page at a time."""
    endpoint = Endpoint.objects.get(name=poll.tenant)
    headers = {"Authorization": f"Bearer {endpoint.token}"}
    response = client().get(f"{endpoint.url}/receipts", params={"after": poll.cursor or 0}, headers=headers)
    if response.status_code == UNAUTHORIZED:
        raise WrongToken(f"{endpoint.name} answers 401")
    response.raise_for_status()
    found = response.json()
    if not found:
        return None
    last = found[-1]["number"]
    item = Item(kwargs={"deliveries": [each["delivery"] for each in found]}, key=last)
    return Batch([item], cursor=last, more=len(found) == PAGE)


@shared_task(
    base=PerpetualTask,
    poll_every=settings.OUTBOX_RECEIPTS_EVERY,
    next_batch=receipts,
    tenants=endpoints,
    preflight=token_is_there,
    perpetual_options=PerpetualOptions(error_rules=[ErrorRule(WrongToken, error_class="permanent")]),
)
def confirm(deliveries: list[int]) -> int:
    """Mark deliveries whose endpoint says that it has got them."""
    fresh = Delivery.objects.filter(pk__in=deliveries, confirmed_at=None)
    return fresh.update(confirmed_at=timezone.now())
