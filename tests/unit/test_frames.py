"""Pushed messages of a server, cut anywhere, give the same frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from celery_perpetual.waiting.subscription import frames


def pushed(kind: bytes, channel: bytes, data: bytes | int, *, resp3: bool = False) -> bytes:
    last = b":%d\r\n" % data if isinstance(data, int) else b"$%d\r\n%b\r\n" % (len(data), data)
    start = b">" if resp3 else b"*"
    return start + b"3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(kind), kind, len(channel), channel) + last


messages = st.lists(
    st.tuples(
        st.sampled_from([b"message", b"subscribe"]), st.binary(max_size=20), st.binary(max_size=60) | st.integers()
    ),
    max_size=8,
)


@given(messages, st.booleans(), st.integers(1, 40))
def test_frames_do_not_depend_on_how_the_bytes_arrive(wanted, resp3, step):
    """In one piece or a few bytes at a time; the content may look like the protocol."""
    stream = b"".join(pushed(*each, resp3=resp3) for each in wanted)
    found, rest = [], b""
    for at in range(0, len(stream), step):
        new, rest = frames(rest + stream[at : at + step])
        found += new

    assert found == [
        [kind, channel, str(data).encode() if isinstance(data, int) else data] for kind, channel, data in wanted
    ]
    assert rest == b""


def test_words_between_frames_are_passed_over():
    """The answer to a PING is a word in RESP3, and a frame of two in RESP2."""
    found, rest = frames(
        b"+PONG\r\n" + pushed(b"message", b"c", b"x") + b"*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$7\r\nmes"
    )

    assert found == [[b"message", b"c", b"x"], [b"pong", b""]]
    assert rest == b"*3\r\n$7\r\nmes"


def test_nothing_is_an_empty_string():
    """The server names no channel where there was none to leave."""
    assert frames(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")[0] == [[b"unsubscribe", b"", b"0"]]


def test_a_refusal_is_raised():
    """A channel that the user may not subscribe to."""
    with pytest.raises(ResponseError, match="NOPERM"):
        frames(b"-NOPERM No permissions to access a channel\r\n")


def test_something_that_is_no_redis_is_told():
    with pytest.raises(NoConnection, match="the server sent an unknown reply"):
        frames(b"*what\r\n")
