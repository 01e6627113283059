"""The parts that differ between messages of one kind, but for numbers: the body, and how the arguments are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import arguments
from celery_perpetual.ledger.reprs import ArgumentReprs
from celery_perpetual.ledger.serializers import decoder, encoder, is_plain_json, loaded

if TYPE_CHECKING:
    from celery import Celery


class Bodies:
    """Bodies of one kind of message, from items as the ledger keeps them."""

    def __init__(self, app: Celery, specimen: CheckedItem, body: bytes) -> None:
        """Learn from the body of one item's message what Celery puts beside the arguments."""
        self._show = ArgumentReprs(app).show
        self._decode = decoder(specimen.serializer)
        self._encode = encoder(specimen.serializer)
        self._embed = loaded(body, specimen.serializer)[2]
        head = specimen.body[:-1]
        spliced = is_plain_json(specimen.serializer) and body.startswith(head + b", ")
        self._tail = body[len(head) :] if spliced else b""
        self.body: Callable[[CheckedItem], bytes] = self._extended if spliced else self._encoded
        """The body of an item's message."""

    def reprs(self, item: CheckedItem) -> tuple[str, str]:
        """How Celery shows the arguments of an item that comes from the ledger."""
        args, kwargs = self._decode(item.body)
        return self._show(tuple(args), kwargs)

    def whole(self, item: CheckedItem) -> Any:
        """The body as a value, as signals show it."""
        return (*arguments(item.body, item.serializer), self._embed)

    def _extended(self, item: CheckedItem) -> bytes:
        """JSON in JSON is the same text: ``[args, kwargs]`` becomes ``[args, kwargs, embed]`` at its end."""
        return item.body[:-1] + self._tail

    def _encoded(self, item: CheckedItem) -> bytes:
        return self._encode(self.whole(item))
