"""Values that may be a tenant, and their names."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from celery_perpetual import ContractError
from celery_perpetual.tasks.names import parse_unit_name, unit_name
from celery_perpetual.tasks.tenants import LONGEST_NAME, read_list, tenant_of


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("acme", "acme", "acme"),
        (7, "7", 7),
        ({"key": "acme", "hosts": ("a", "b")}, "acme", {"key": "acme", "hosts": ["a", "b"]}),
        ({"key": 7}, "7", {"key": 7}),
        ("a:b%c/ü 🙂", "a:b%c/ü 🙂", "a:b%c/ü 🙂"),
        ("x" * 10_240, "x" * 10_240, "x" * 10_240),
    ],
)
def test_a_tenant_has_a_name_and_a_value(given: Any, name: str, value: Any) -> None:
    """A text and a number name themselves, an object by its key; the value is what JSON makes of it."""
    assert tenant_of(given) == (name, value)
    assert parse_unit_name(unit_name("shop.deliver", name)) == ("shop.deliver", name)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (None, "a tenant must be a str, an int, or a dict"),
        (True, "a tenant must be"),
        (1.5, "a tenant must be"),
        (["acme"], "a tenant must be"),
        ({"name": "acme"}, "a tenant must be"),
        ("", "one line of text of 1 to"),
        ("a\nb", "one line of text"),
        ("\ud800", "one line of text"),
        ("x" * (LONGEST_NAME + 1), f"got {LONGEST_NAME + 1}: 'xxx"),
        ({"key": "acme", "since": object()}, "tenant 'acme' is no JSON value"),
        ({"key": "acme", "share": float("nan")}, "tenant 'acme' is no JSON value"),
    ],
)
def test_what_cannot_be_a_tenant_is_refused(given: Any, wrong: str) -> None:
    """The message shows what was given, cut where it is long."""
    with pytest.raises(ContractError) as refused:
        tenant_of(given)

    assert wrong in str(refused.value)
    assert len(str(refused.value)) < 400


def test_equal_values_count_once_and_wrong_ones_are_left_out() -> None:
    """The first value keeps a name that two have; the rest of the list counts."""
    found = read_list(["acme", "acme", 7, "7", None, {"key": "b", "n": 1}, {"key": "b", "n": 1}, {"key": "b", "n": 2}])

    assert found.values == {"acme": "acme", "7": 7, "b": {"key": "b", "n": 1}}
    assert [text.partition(",")[0] for text in found.refused] == [
        "tenants 7 and '7' have the same name '7'", "a tenant must be a str",
        "tenants {'key': 'b'",
    ]  # fmt: skip


@pytest.mark.parametrize("given", ["acme", b"bytes", {"key": "acme"}, 7, None, object()])
def test_what_is_no_list_is_refused(given: Any) -> None:
    """One tenant by itself is no list of tenants."""
    with pytest.raises(ContractError, match=r"^tenants must be a list \(or any iterable\) of tenants, got "):
        read_list(given)


def test_an_iterator_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of values."""
    monkeypatch.setattr("celery_perpetual.tasks.tenants.MOST_TENANTS", 1000)

    with pytest.raises(ContractError, match="tenants must be at most 1000, got more"):
        read_list(itertools.count())
