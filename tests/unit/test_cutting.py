"""Specimens are cut at marks that stand as they must, and at no others."""

from __future__ import annotations

import pytest

from celery_perpetual.publishing.cutting import cut

MARKS = {"<id>": "id", "<args>": "args"}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a<id>b<args>c<id>", ["a", "b", "c", ""]),
        ("<id><args><id>z", ["", "", "", "z"]),
        ("a<id>b<args>c", None),
        ("a<args>b<id>c<id>", None),
        ("a<id>b<args>c<id>d<args>", None),
        ("a<args>b<id>c<args>d<id>", None),
        ("", None),
    ],
)
def test_marks_stand_in_their_order(text: str, pieces: list[str] | None) -> None:
    """A mark that is missing, stands elsewhere or once more refuses the cut; bytes are cut as texts are."""
    order = ["id", "args", "id"]
    assert cut(text, MARKS, order) == pieces
    in_bytes = {mark.encode(): name for mark, name in MARKS.items()}
    assert cut(text.encode(), in_bytes, order) == (None if pieces is None else [each.encode() for each in pieces])
