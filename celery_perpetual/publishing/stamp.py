"""Stamps: many messages from one that Celery and Kombu have built.

For each kind of item one message, the *specimen*, goes through Celery's and Kombu's own code with values in it that
occur nowhere else. Its text is cut at these values, and the messages of the kind are put together from the pieces:
task id (three times), delivery tag, body, ``argsrepr`` and ``kwargsrepr``, and of a routine's run its header. Before a
stamp is used, the messages of two real items are built both ways; unless they are equal to the last byte, every item is
built by Celery.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import replace
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING
from uuid import uuid4

from kombu.utils.json import loads as json_loads

from celery_perpetual.broker.commands import BrokerCommands, Command
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.ledger.ids import base, item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened, run_json
from celery_perpetual.publishing.bodies import Bodies
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.cutting import cut
from celery_perpetual.publishing.sender import AfterPublish, SignalCall, call_for
from celery_perpetual.tasks.task import ROUTINE_HEADER

if TYPE_CHECKING:
    from celery import Celery

IndexedItems = Sequence[tuple[int, CheckedItem]]

#: The order in which the differing values stand in a message.
ORDER = ["body", "id", "id", "args", "kwargs", "id", "tag"]
#: The same for runs of routines.
ORDER_OF_RUNS = ["body", "id", "id", "args", "kwargs", "run", "id", "tag"]


class Stamp:
    """Messages of one kind, for a Redis broker."""

    def __init__(
        self,
        key: str,
        pieces: Sequence[str],
        bodies: Bodies,
        calls: list[SignalCall],
        destination: Destination | None,
    ) -> None:
        self.destination = destination
        self._key = key
        self._pieces = pieces
        self._bodies = bodies
        self._calls = calls

    def build(
        self, poll_id: str, commands: BrokerCommands, after_publish: AfterPublish, indexed: IndexedItems
    ) -> None:  # fmt: skip
        """Add the messages of items of a batch, given with their index in it."""
        commands.push(self._key, self._texts(poll_id, _new_tag(), indexed))
        for call in self._calls:
            if call.signal.receivers:
                for index, item in indexed:
                    body, reprs = self._bodies.whole(item), item.reprs or self._bodies.reprs(item)
                    arguments = call_for(call, item_id(poll_id, index), body, reprs, item.run)
                    after_publish.add(call.signal, arguments)

    def is_exact(self, poll_id: str, capture: Capture, index: int, item: CheckedItem) -> bool:
        """Whether Celery builds the very same message."""
        tag = _new_tag()
        commands = capture.commands(opened(item), item_id(poll_id, index), tag=f"{tag}{index:08x}")
        return commands == [Command("LPUSH", self._key, self._texts(poll_id, tag, [(index, item)])[0])]

    def _texts(self, poll_id: str, tag: str, indexed: IndexedItems) -> list[str]:
        """The messages; to join their pieces is twice as fast as to format them."""
        endings = {"id": base(poll_id), "tag": tag}
        order = [*(ORDER if indexed[0][1].run is None else ORDER_OF_RUNS), ""]
        pieces = [piece + endings.get(name, "") for piece, name in zip(self._pieces, order, strict=True)]
        first, to_id, to_root, to_args, to_kwargs, *to_correlation, to_tag, last = pieces
        body, reprs = self._bodies.body, self._bodies.reprs
        texts = []
        for index, item in indexed:
            args_repr, kwargs_repr = item.reprs or reprs(item)
            text = b2a_base64(body(item), newline=False).decode("ascii")
            number = f"{index:08x}"
            if item.run is None:
                (between,) = to_correlation
            else:
                before, after = to_correlation
                between = f"{before}{run_json(item.run)}{after}"
            texts.append(
                "".join((
                    first, text, to_id, number, to_root, number, to_args, encode_basestring_ascii(args_repr),
                    to_kwargs, encode_basestring_ascii(kwargs_repr), between, number, to_tag, number, last,
                ))
            )  # fmt: skip
        return texts


def make_stamp(app: Celery, capture: Capture, poll_id: str, indexed: IndexedItems) -> Stamp | None:
    """A stamp for items of one kind, or None where it would not be exact.

    Raises:
        Exception: the exception that Celery or Kombu raise for the specimen; they would raise it for the item too.
    """
    item = indexed[0][1]
    task_id, tag, args_repr, kwargs_repr, run = (str(uuid4()) for _ in range(5))
    after_publish = AfterPublish()
    specimen = replace(opened(item), reprs=(args_repr, kwargs_repr))
    order, marks = ORDER, {}
    if item.run is not None:
        headers = {**specimen.options["headers"], ROUTINE_HEADER: run}
        specimen = replace(specimen, options={**specimen.options, "headers": headers})
        order, marks = ORDER_OF_RUNS, {f'"{run}"': "run"}
    commands, destination = capture.commands(specimen, task_id, after_publish, tag), capture.destination
    if len(commands) != 1 or commands[0].name != "LPUSH":
        return None  # a queue that expires, fan-out, more than one queue, or none
    text = str(commands[0].value)
    message = json_loads(text)
    if message["properties"].get("body_encoding") != "base64" or "compression" in message["headers"]:
        return None
    bodies = Bodies(app, item, b64decode(message["body"]))
    marks |= {task_id: "id", tag: "tag", f'"{args_repr}"': "args", f'"{kwargs_repr}"': "kwargs",
              message["body"]: "body"}  # fmt: skip
    between = cut(text, marks, order)
    if between is None:
        return None
    stamp = Stamp(commands[0].key, between, bodies, after_publish.take(), destination)
    trials = dict((indexed[0], indexed[-1]))
    return stamp if all(stamp.is_exact(poll_id, capture, index, each) for index, each in trials.items()) else None


def _new_tag() -> str:
    """The beginning of delivery tags that no other messages have; the index of the item in its batch is their end."""
    return str(uuid4())[:28]
