"""The two tables of the outbox."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import F
from django.utils import timezone


class Endpoint(models.Model):
    """A customer's address that wants to hear about events."""

    name = models.CharField(max_length=80, unique=True)
    url = models.URLField(max_length=400)
    token = models.CharField(max_length=80, blank=True, default="")  # by which it knows us; "" until we get one
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.name


class Digest(models.Model):
    """Deliveries to one endpoint on one day."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="digests")
    slot = models.DateTimeField()
    delivered = models.PositiveIntegerField()
    pending = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["endpoint", "slot"], name="digest_once")]

    def __str__(self) -> str:
        return f"{self.endpoint} until {self.slot:%Y-%m-%d %H:%M:%S}"


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def pending(self) -> "DeliveryQuerySet":
        return self.filter(state=Delivery.State.PENDING)

    def due(self, now: datetime | None = None) -> "DeliveryQuerySet":
        """Pending rows whose time has come, the longest waiting first."""
        ready = self.pending().filter(next_attempt_at__lte=now or timezone.now())
        return ready.order_by("next_attempt_at", "pk")


class Delivery(models.Model):
    """One event on its way to one endpoint."""

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed"

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=80)
    payload = models.JSONField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    confirmed_at = models.DateTimeField(null=True, blank=True, editable=False)  # by the endpoint
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.CharField(max_length=200, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            # Equality, range and order of `due()`: finding work stays cheap however much is done.
            models.Index(fields=["state", "next_attempt_at", "id"], name="delivery_due"),
        ]

    def __str__(self) -> str:
        return f"{self.event} #{self.pk}"

    def body(self) -> bytes:
        """The body that is sent; the same bytes on each attempt, so that a receiver may sign or compare them."""
        document = {
            "id": self.pk,
            "event": self.event,
            "created_at": self.created_at.isoformat(),
            "data": self.payload,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    def mark_delivered(self, status: int) -> None:
        self._record(
            state=self.State.DELIVERED,
            delivered_at=timezone.now(),
            response_status=status,
            last_error="",
        )

    def mark_refused(self, status: int | None, error: str, wait: float) -> None:
        """Still pending; due again after `wait` seconds even if its task were lost."""
        again = timezone.now() + timedelta(seconds=wait)
        self._record(next_attempt_at=again, response_status=status, last_error=error[:200])

    def mark_failed(self, status: int | None, error: str) -> None:
        self._record(state=self.State.FAILED, response_status=status, last_error=error[:200])

    def _record(self, **changes: Any) -> None:
        # Only a pending row changes: a late second run cannot undo the result of the first one.
        mine = Delivery.objects.pending().filter(pk=self.pk)
        mine.update(attempts=F("attempts") + 1, **changes)
