"""Stamps for RabbitMQ: as for Redis, but what is cut is not a text but the frames that amqp writes for a message.

A message is a method frame, which is the same for all of a kind; a header frame, in which ids, ``argsrepr``,
``kwargsrepr``, of a routine's run its header, and three lengths differ; and its body, in frames of a limited length.
amqp writes one value after the other for each message, which takes most of the time of a publish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from amqp.serialization import dumps

from celery_perpetual.broker.destinations import Destination
from celery_perpetual.ledger.ids import base, item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.bodies import Bodies
from celery_perpetual.publishing.cutting import cut
from celery_perpetual.publishing.sender import AfterPublish, SignalCall, call_for
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.tasks.task import ROUTINE_HEADER

if TYPE_CHECKING:
    from celery import Celery

#: The order in which the differing values stand in a header frame, in whose table a routine's run is one more.
ORDER, ORDER_OF_RUNS = ["id", "id", "args", "kwargs", "id"], ["id", "id", "args", "kwargs", "run", "id"]

#: Bytes of a frame around what it carries: type, channel and length before it, and its end.
_HEAD, _END = 7, b"\xce"
HEAD_AND_END = _HEAD + len(_END)
#: Bytes that a header frame carries before the properties: class, weight, length of the body.
FACTS = 12


class HeadersTooLong(ValueError):
    """The properties and headers of a message are longer than a frame may be."""


def check_header_frame(payload: int, frame_max: int) -> None:
    """Refuse a header frame before it is written: AMQP cannot divide it, and RabbitMQ would close the connection.

    Args:
        payload: bytes that it carries.
        frame_max: bytes of the longest frame that the broker takes.

    Raises:
        HeadersTooLong: it is longer.
    """
    if payload > frame_max - HEAD_AND_END:
        raise HeadersTooLong(
            f"its properties and headers have {payload} bytes, and the broker accepts {frame_max - HEAD_AND_END} "
            f"(its frame_max is {frame_max})"
        )


class Parcel(NamedTuple):
    """A message that amqp would write."""

    headers: dict[str, Any]
    body: bytes
    frames: bytes
    destination: Destination | None = None


class AmqpStamp:
    """Messages of one kind in one poll, on one channel."""

    def __init__(
        self,
        poll_id: str,
        parts: _Parts,
        frame_max: int,
        bodies: Bodies,
        calls: list[SignalCall],
        destination: Destination | None,
    ) -> None:
        self.destination = destination
        self._poll_id = poll_id
        self._parts = parts
        self._frame_max = frame_max
        self._longest = frame_max - HEAD_AND_END
        self._bodies = bodies
        self._calls = calls

    def frames(self, index: int, item: CheckedItem) -> bytes:
        """The message of one item, as amqp would write it.

        Raises:
            HeadersTooLong: its headers do not fit into a frame.
        """
        args_repr, kwargs_repr = item.reprs or self._bodies.reprs(item)
        args, kwargs = args_repr.encode("utf-8", "surrogatepass"), kwargs_repr.encode("utf-8", "surrogatepass")
        parts, body, number = self._parts, self._bodies.body(item), b"%08x" % index
        to_id, to_root, to_args, to_kwargs, *to_correlation, last = parts.pieces
        run = b"" if item.run is None else dumps("F", (item.run,))
        if item.run is None:
            (between,) = to_correlation
        else:
            before, after = to_correlation
            between = before + run + after
        longer = len(args) + len(kwargs) + len(run)
        check_header_frame(parts.payload + longer, self._frame_max)
        text = b"".join((
            parts.method, pack(">I", parts.payload + longer), parts.facts, pack(">Q", len(body)), parts.before,
            pack(">I", parts.table + longer), to_id, number, to_root, number, to_args, pack(">I", len(args)), args,
            to_kwargs, pack(">I", len(kwargs)), kwargs, between, number, last,
        ))  # fmt: skip
        if len(body) <= self._longest:
            return b"%b%b%b%b\xce" % (text, parts.body_head, pack(">I", len(body)), body)
        several = (body[at : at + self._longest] for at in range(0, len(body), self._longest))
        return text + b"".join(b"%b%b%b\xce" % (parts.body_head, pack(">I", len(each)), each) for each in several)

    def keep_calls(self, after_publish: AfterPublish, indexed: IndexedItems) -> None:
        """Keep the signals that are due after the publish of items."""
        for call in self._calls:
            if call.signal.receivers:
                for index, item in indexed:
                    reprs = item.reprs or self._bodies.reprs(item)
                    body = self._bodies.whole(item)
                    arguments = call_for(call, item_id(self._poll_id, index), body, reprs, item.run)
                    after_publish.add(call.signal, arguments)


class _Parts(NamedTuple):
    """The frames of a specimen, cut at the values that differ."""

    method: bytes
    """The method frame, and of the header frame type and channel."""
    facts: bytes
    """Class and weight."""
    before: bytes
    """The properties before the table of headers."""
    pieces: list[bytes]
    """The bytes before, between and behind the values; texts are without their lengths."""
    payload: int
    """Bytes that the header frame carries, without texts and run."""
    table: int
    """Bytes of the table of headers, without them."""
    body_head: bytes
    """Type and channel of a body's frame."""


def make_amqp_stamp(
    app: Celery, catch: Callable[..., list[Parcel]], frame_max: int, poll_id: str, indexed: IndexedItems
) -> AmqpStamp | None:
    """A stamp for items of one kind, or None where it would not be exact.

    Args:
        catch: gives what would be published for a record, a task id and an after_publish.
        frame_max: bytes of the longest frame that the broker takes.
    """
    item = indexed[0][1]
    task_id, args_repr, kwargs_repr, run = (str(uuid4()) for _ in range(4))
    after_publish = AfterPublish()
    specimen = replace(opened(item), reprs=(args_repr, kwargs_repr))
    order, marks = ORDER, {task_id.encode(): "id", _text(args_repr): "args", _text(kwargs_repr): "kwargs"}
    if item.run is not None:
        headers = {**specimen.options["headers"], ROUTINE_HEADER: run}
        specimen = replace(specimen, options={**specimen.options, "headers": headers})
        order, marks = ORDER_OF_RUNS, {**marks, _text(run): "run"}
    caught = catch(specimen, task_id, after_publish)
    if len(caught) != 1 or "compression" in caught[0].headers:
        return None
    parts = _cut(caught[0], marks, order, base(poll_id).encode())
    if parts is None:
        return None
    bodies = Bodies(app, item, caught[0].body)
    stamp = AmqpStamp(poll_id, parts, frame_max, bodies, after_publish.take(), caught[0].destination)
    for index, each in dict((indexed[0], indexed[-1])).items():
        real = catch(opened(each), item_id(poll_id, index))
        if [parcel.frames for parcel in real] != [stamp.frames(index, each)]:
            return None
    return stamp


def _cut(specimen: Parcel, marks: dict[bytes, str], order: list[str], id_begins: bytes) -> _Parts | None:
    """Cut a specimen's frames at the marks, None where they are not what they should be."""
    frames = specimen.frames
    at = _end_of_frame(frames, 0)
    end = _end_of_frame(frames, at)
    facts, properties = at + _HEAD, frames[at + _HEAD + FACTS : end - len(_END)]
    table = dumps("F", (specimen.headers,))
    before, found, after = properties.partition(table)
    between = cut(table[4:] + after, marks, order)
    if not found or between is None or any(mark in before for mark in marks):
        return None
    pieces = [_joined(piece, name, id_begins) for piece, name in zip(between, [*order, ""], strict=True)]
    # Of a text remain its letter and its length, of a run its letter.
    varying = sum(len(mark) - (1 if name == "run" else 5) for mark, name in marks.items() if name != "id")
    return _Parts(
        method=frames[: at + 3],
        facts=frames[facts : facts + 4],
        before=before,
        pieces=[*pieces[:-1], pieces[-1] + _END],
        payload=FACTS + len(properties) - varying,
        table=len(table) - 4 - varying,
        body_head=b"\x03" + frames[1:3],
    )


def _end_of_frame(frames: bytes, at: int) -> int:
    return at + _HEAD + int.from_bytes(frames[at + 3 : at + _HEAD], "big") + len(_END)


def _text(mark: str) -> bytes:
    """A text as it stands in a table of headers."""
    return b"S" + pack(">I", len(mark)) + mark.encode()


def _joined(piece: bytes, name: str, id_begins: bytes) -> bytes:
    """A piece with the beginning of any value behind it: the poll's part of an id, the letter of a type."""
    return piece + {"id": id_begins, "args": b"S", "kwargs": b"S", "run": b"F"}.get(name, b"")
