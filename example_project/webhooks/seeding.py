"""Made-up but plausible events; the same seed gives the same rows."""

import random
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from webhooks.models import Delivery, Endpoint

CUSTOMERS = ["Alpine Books", "Blue Harbor", "Cedar & Sons", "Delta Bikes", "Elm Street Coffee"]
# Endpoints that get no deliveries and have other troubles.
DOWN, PRESSED, NO_TOKEN, WRONG_TOKEN = "Falcon Freight", "Granite Gym", "Hazel Hotel", "Iris Inks"
CURRENCIES = ["EUR", "USD", "GBP", "CHF"]
CARRIERS = ["DHL", "UPS", "La Poste", "Royal Mail"]
STEPS = ["picked_up", "in_transit", "out_for_delivery", "delivered"]
#: No server listens there.
NOBODY = "http://127.0.0.1:1"
GOODS = ["espresso beans 1 kg", "bicycle bell", "notebook A5", "rain jacket", "desk lamp"]
EPOCH = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)


def order_paid(dice: random.Random) -> dict[str, Any]:
    lines = [
        {"sku": f"SKU-{dice.randint(1000, 9999)}", "title": dice.choice(GOODS), "quantity": dice.randint(1, 4)}
        for _ in range(dice.randint(1, 3))
    ]
    return {
        "order": f"O-{dice.randint(100_000, 999_999)}",
        "total": money(dice),
        "currency": dice.choice(CURRENCIES),
        "lines": lines,
    }


def invoice_created(dice: random.Random) -> dict[str, Any]:
    return {
        "invoice": f"INV-2026-{dice.randint(1, 99_999):05d}",
        "amount_due": money(dice),
        "currency": dice.choice(CURRENCIES),
        "due_on": (EPOCH + timedelta(days=dice.randint(14, 45))).date().isoformat(),
    }


def shipment_updated(dice: random.Random) -> dict[str, Any]:
    return {
        "shipment": f"S-{dice.randint(10_000, 99_999)}",
        "carrier": dice.choice(CARRIERS),
        "step": dice.choice(STEPS),
        "at": (EPOCH + timedelta(minutes=dice.randint(0, 40_000))).isoformat(),
    }


def refund_created(dice: random.Random) -> dict[str, Any]:
    return {
        "order": f"O-{dice.randint(100_000, 999_999)}",
        "amount": money(dice),
        "currency": dice.choice(CURRENCIES),
        "reason": dice.choice(["damaged", "late", "changed mind"]),
    }


EVENTS = {
    "order.paid": order_paid,
    "invoice.created": invoice_created,
    "shipment.updated": shipment_updated,
    "refund.created": refund_created,
}


def money(dice: random.Random) -> str:
    """As text: a sum of money is no float."""
    return f"{dice.randint(1, 900)}.{dice.randint(0, 99):02d}"


def endpoints(base_url: str) -> list[Endpoint]:
    """One endpoint for each customer below `base_url`, which is where a receiver listens now; then the others."""
    found = []
    for name in [*CUSTOMERS, DOWN, PRESSED, NO_TOKEN, WRONG_TOKEN]:
        slug = slug_of(name)
        base = NOBODY if name == DOWN else base_url.rstrip("/")
        token = {NO_TOKEN: "", WRONG_TOKEN: "the token of last year"}.get(name, f"token-of-{slug}")
        values = {"url": f"{base}/hooks/{slug}", "token": token}
        found.append(Endpoint.objects.update_or_create(name=name, defaults=values)[0])
    return found


def slug_of(name: str) -> str:
    """The customer's part of its address."""
    return re.sub("[^a-z]+", "-", name.lower())


def events(count: int, seed: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(customer's number, event, payload), `count` times."""
    dice = random.Random(seed)
    for _ in range(count):
        event = dice.choice(list(EVENTS))
        yield dice.randrange(len(CUSTOMERS)), event, EVENTS[event](dice)


def seed_deliveries(count: int, seed: int, base_url: str) -> int:
    """Insert `count` pending deliveries that are due now; returns how many were made."""
    customers = endpoints(base_url)
    rows = [
        Delivery(endpoint=customers[number], event=event, payload=payload)
        for number, event, payload in events(count, seed)
    ]
    return len(Delivery.objects.bulk_create(rows, batch_size=500))
