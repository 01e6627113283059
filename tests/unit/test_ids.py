"""Ids that say where their record is."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery.result import AsyncResult
from hypothesis import given
from hypothesis import strategies as st

from celery_perpetual.errors import ContractError
from celery_perpetual.ledger.ids import ItemAddress, base, id_of, item_id, new_poll_id, parse_item_id
from celery_perpetual.store.chunks import CHUNK

TIME = st.integers(0, 2**48 - 1)
# The poll itself has the one index that no item has.
INDEX = st.integers(0, 2**32 - 2)


@given(TIME)
def test_a_poll_id_is_a_uuid_of_version_8(now: int) -> None:
    """Poll ids are lower-case UUIDs with dashes, of version 8 and the RFC's variant, with the time in front."""
    poll_id = new_poll_id(now)
    parsed = uuid.UUID(poll_id)

    assert str(parsed) == poll_id
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert parsed.int >> 80 == now
    assert parsed.int & 0xFFFF_FFFF == 0xFFFF_FFFF


@given(TIME, INDEX)
def test_a_task_id_is_a_uuid_of_version_8(now: int, index: int) -> None:
    """Task ids have the poll's form, with the item's index in the last 32 bits."""
    poll_id = new_poll_id(now)
    task_id = item_id(poll_id, index)
    parsed = uuid.UUID(task_id)

    assert str(parsed) == task_id
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert parsed.int >> 80 == now
    assert parsed.int & 0xFFFF_FFFF == index


@given(TIME, INDEX)
def test_from_a_task_id_follows_where_its_record_is(now: int, index: int) -> None:
    """Poll, index, chunk and position come from the id alone."""
    poll_id = new_poll_id(now)

    found = parse_item_id(item_id(poll_id, index))

    assert found == ItemAddress(poll_id, index)
    assert found.chunk * CHUNK + found.position == index
    assert 0 <= found.position < CHUNK


@given(TIME, INDEX, INDEX)
def test_ids_of_one_poll_share_their_base(now: int, one: int, other: int) -> None:
    """The beginning of the ids of a poll is the same for all of them and for the poll."""
    poll_id = new_poll_id(now)

    assert base(item_id(poll_id, one)) == base(item_id(poll_id, other)) == base(poll_id)


def test_ids_of_two_polls_of_one_millisecond_differ() -> None:
    """42 random bits tell polls of one moment apart."""
    assert len({base(new_poll_id(1_700_000_000_000)) for _ in range(10_000)}) == 10_000


def test_ids_sort_by_time() -> None:
    """Later polls have greater ids."""
    ids = [new_poll_id(now) for now in (0, 1, 0xFFFF, 0x1_0000, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1)]

    assert ids == sorted(ids)


@given(st.uuids(version=4) | st.uuids(version=1) | st.uuids(version=5) | st.uuids(version=3))
def test_other_uuids_are_not_ours(foreign: uuid.UUID) -> None:
    """Ids that Celery or anybody else makes as usual have no place in our ledger."""
    assert parse_item_id(str(foreign)) is None


def test_a_poll_id_is_no_task_id() -> None:
    """The poll itself has no record."""
    assert parse_item_id(new_poll_id(1_700_000_000_000)) is None


# A fixed one: parametrised tests must have the same names in every process.
OURS = "018bcfe5-6800-848b-aedf-7c8b00000007"


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "deliver-42",
        OURS[:-1],
        OURS + "0",
        OURS.upper(),
        OURS.replace("-", ""),
        f"{{{OURS}}}",
        f"urn:uuid:{OURS}",
        OURS[:14] + "7" + OURS[15:],
        OURS[:19] + "c" + OURS[20:],
        OURS[:19] + "7" + OURS[20:],
        OURS[:23] + "_" + OURS[24:],
        OURS[:-1] + "g",
        OURS + "\n",
        OURS[:-1] + "\n",
        OURS[:-1] + "٣",
        " " + OURS[1:],
    ],
)
def test_what_only_looks_like_ours_is_not(foreign: str) -> None:
    """An id in any other notation, version or variant is somebody else's."""
    assert parse_item_id(foreign) is None


@pytest.mark.parametrize("foreign", [None, 7, b"0" * 36, OURS.encode(), ["x"], object()])
def test_what_is_no_text_is_no_id(foreign: object) -> None:
    """No id that a message claims to have breaks anything."""
    assert parse_item_id(foreign) is None  # type: ignore[arg-type]


@given(st.text())
def test_no_text_breaks_the_look_up(text: str) -> None:
    """Any text is either one of our ids or is not."""
    found = parse_item_id(text)

    assert found is None or item_id(found.poll_id, found.index) == text


@pytest.mark.parametrize("wrong", ["", None, 7, b"bytes", ["a"], "half a character \udcff", "\ud800"])
def test_what_cannot_be_an_id_is_refused(wrong: Any) -> None:
    """With what was seen, so that the message itself can be printed."""
    with pytest.raises(ContractError, match="a task id must be") as refused:
        id_of(wrong)
    assert str(refused.value).encode()


@pytest.mark.parametrize("right", ["a", "Z\u00fcrich \u6771\u4eac \U0001f600", "new\nline", "*", "\0"])
def test_any_text_that_can_be_encoded_may_be_an_id(right: str) -> None:
    """Celery takes it too."""
    assert id_of(right) == id_of(AsyncResult(right)) == right
