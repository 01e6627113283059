"""Stamped messages on their way to RabbitMQ, byte by byte against those that amqp writes for the same items."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from amqp.transport import TCPTransport
from celery import signals

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.ledger.ids import base
from tests.support import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASIC_PUBLISH = b"\x00\x3c\x00\x28"
#: Of the thread that polls.
REPLY_TO = re.compile(rb"\x24[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\xce?$")
#: Settings of Redis brokers, and queues that one virtual host cannot have beside those of the other cases.
OF_REDIS = {"key prefix", "priority steps", "queue that expires", "two queues by one topic"}
#: Longer than one frame, as long as one, and one byte longer.
LENGTHS = [((length * "x",), {}) for length in (300_000, *range(131_064 - 90, 131_064 - 50))]
CASES: dict[str, Any] = {
    **{name: case for name, case in wire.CASES.items() if name not in OF_REDIS},
    "bodies of several frames": wire.case(arguments=[*wire.ARGUMENTS, *LENGTHS]),
    "half a character": wire.case(arguments=[(("\ud800", n), {}) for n in range(20)]),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that is written to sockets of RabbitMQ."""
    texts: list[bytes] = []
    usual = TCPTransport.write

    def write(self: Any, text: Any) -> None:
        texts.append(bytes(text))
        usual(self, text)

    monkeypatch.setattr(TCPTransport, "write", write)
    return texts


def frames(texts: list[bytes]) -> Iterator[bytes]:
    """The frames of a stream."""
    stream = b"".join(texts).replace(b"AMQP\x00\x00\x09\x01", b"")
    at = 0
    while at < len(stream):
        end = at + 8 + int.from_bytes(stream[at + 3 : at + 7], "big")
        yield stream[at:end]
        at = end


def messages(texts: list[bytes], poll_id: str) -> list[list[bytes]]:
    """The frames of each message, without what differs from poll to poll."""
    found: list[list[bytes]] = []
    is_of_message = False
    for frame in frames(texts):
        if frame[0] == 1:
            is_of_message = frame[7:11] == BASIC_PUBLISH
            if is_of_message:
                found.append([])
        if is_of_message:
            found[-1].append(REPLY_TO.sub(b"*", frame.replace(base(poll_id).encode(), b"poll")))
    return found


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_stamped_frames_are_those_of_amqp(
    name: str, rabbitmq_url: str, redis_url: str, written: list[bytes], listening: Callable[..., None]
) -> None:
    """Every option set, over several chunks and frames: the same frames, in the same order, in far fewer writes."""
    case = CASES[name]
    case = {**case, "conf": {**case["conf"], "perpetual_store_url": redis_url}}
    items: list[Item] = []
    app, task, case = wire.make(
        case, rabbitmq_url, base=PerpetualTask, poll_every=60, next_batch=lambda: items, shared=False
    )
    items += [Item(args, kwargs, key=False, **case["options"]) for args, kwargs in case["arguments"]]
    perpetual = Perpetual(app)

    def polled() -> tuple[list[list[bytes]], int]:
        written.clear()
        outcome = perpetual.poll(task)
        assert outcome is not None
        assert outcome.count == len(items), outcome
        found = messages(written, outcome.poll_id)
        assert len(found) == len(items)
        return found, len(written)

    try:
        stamped, few = polled()
        listening(signals.before_task_publish, lambda **_: None)
        by_amqp, many = polled()
    finally:
        perpetual.store.close()

    assert stamped == by_amqp
    assert (many - few > len(items) / 2) is case["stamped"]
