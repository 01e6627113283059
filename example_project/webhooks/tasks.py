"""The perpetual task: rows of the outbox become tasks by themselves."""

from typing import Any

from celery import shared_task

from celery_perpetual import Item, PerpetualTask, Poll
from webhooks.models import Delivery
from webhooks.sending import post

LONGEST_WAIT = 300  # seconds between two attempts


class DeliveryRefused(Exception):
    """The endpoint did not take the delivery."""


def due(poll: Poll) -> list[Item]:
    """Which deliveries are due. It only reads: rows that are in flight already are left out by their key."""
    rows = Delivery.objects.due().values_list("pk", flat=True)[: poll.limit]
    return [Item(kwargs={"delivery_id": pk}, key=pk) for pk in rows]


@shared_task(base=PerpetualTask, bind=True, poll_every=5, next_batch=due, max_retries=8)
def deliver(self: Any, delivery_id: int) -> str:
    """Send one delivery and close its row; a refusal is tried again, as late as the endpoint asks for."""
    delivery = Delivery.objects.pending().select_related("endpoint").filter(pk=delivery_id).first()
    if delivery is None:
        return "closed before"

    answer = post(delivery)
    if answer.accepted:
        delivery.mark_delivered(answer.status)
        return "delivered"

    refused = DeliveryRefused(f"delivery {delivery_id}: {answer.problem}")
    if answer.permanent or self.request.retries >= self.max_retries:
        delivery.mark_failed(answer.status, answer.problem)
        raise refused

    wait = answer.retry_after
    if wait is None:
        wait = min(2**self.request.retries, LONGEST_WAIT)
    # The row stays pending, its key in flight: the next polls see it and leave it alone.
    delivery.mark_refused(answer.status, answer.problem, wait)
    raise self.retry(countdown=wait, exc=refused)
