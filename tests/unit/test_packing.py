"""Commands on the wire: a list of arguments that is packed at once has the same bytes as arguments one by one."""

from __future__ import annotations

import pytest

from celery_perpetual.store.wire import packed, packed_list


class Bytes(bytes):
    """Bytes of a serializer's own class."""


@pytest.mark.parametrize(
    "values",
    [
        ["a", "zürich", "", "東京"],
        [b"a", b"\x00\r\n", b""],
        [Bytes(b"a"), b"b", "c", 1, 2.5],
        ["a", b"\xff", "ü", 7, Bytes(b"\xff")],
        [],
    ],
)
def test_a_list_is_packed_as_its_arguments_are(values: list[str | bytes | float]) -> None:
    """Types may follow one another in any order, subclasses of bytes too."""
    assert packed("SET", packed_list(values)) == packed("SET", *values)


def test_lengths_are_those_of_bytes() -> None:
    """The wire counts bytes, not characters; bytes are sent as they are."""
    assert packed("é", Bytes(b"\xff"), 12) == b"*3\r\n$2\r\n\xc3\xa9\r\n$1\r\n\xff\r\n$2\r\n12\r\n"
