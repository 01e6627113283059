"""A routine for each endpoint: once a day it gets a digest of what was delivered to it.

The routine is data in the store, made when the endpoint is added; no schedule in code knows of it, and a million
endpoints may have one each.
"""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from celery_perpetual import NotFound, Retries
from webhooks.models import Delivery, Digest, Endpoint


def routine_of(endpoint_id: int) -> str:
    return f"digest-{endpoint_id}"


def create_routine(endpoint_id: int) -> None:
    """The same endpoint has one routine, however often this is called."""
    from outbox_site.celery import perpetual

    perpetual.routines.create(
        send_digest,
        id=routine_of(endpoint_id),
        idempotency_key=routine_of(endpoint_id),
        kwargs={"endpoint_id": endpoint_id},
        every=settings.OUTBOX_DIGEST_EVERY,
        retries=Retries(max_attempts=5, backoff=1),
    )


def end_routine(endpoint_id: int) -> None:
    from outbox_site.celery import perpetual

    with suppress(NotFound):  # it may have been added while the store was away
        perpetual.routines.cancel(routine_of(endpoint_id))


# `robust`: an endpoint is saved whether or not the store answers; what went wrong is in Django's log.


@receiver(post_save, sender=Endpoint)
def endpoint_added(instance: Endpoint, created: bool, **_: Any) -> None:
    if created:
        transaction.on_commit(partial(create_routine, instance.pk), robust=True)


@receiver(post_delete, sender=Endpoint)
def endpoint_removed(instance: Endpoint, **_: Any) -> None:
    transaction.on_commit(partial(end_routine, instance.pk), robust=True)


@shared_task
def send_digest(endpoint_id: int) -> str:
    """Count what was delivered since the last slot. Here the digest is a row; a real one would be a mail."""
    from outbox_site.celery import perpetual

    slot = perpetual.slot()
    assert slot is not None
    day = Q(delivered_at__gt=slot - timedelta(seconds=settings.OUTBOX_DIGEST_EVERY), delivered_at__lte=slot)
    counts = Delivery.objects.filter(endpoint=endpoint_id).aggregate(
        delivered=Count("pk", filter=day), pending=Count("pk", filter=Q(state=Delivery.State.PENDING))
    )
    # A run may be repeated if its worker dies; it has the slot of the first one, and so the same row.
    Digest.objects.update_or_create(endpoint_id=endpoint_id, slot=slot, defaults=counts)
    return f"{counts['delivered']} delivered, {counts['pending']} pending"
