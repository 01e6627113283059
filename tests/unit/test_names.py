"""Names of units."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_perpetual.tasks.names import parse_unit_name, unit_name

# Rich in what the encoding is about.
PART = st.text(alphabet=st.one_of(st.sampled_from(":%25A3a"), st.characters(exclude_categories=["Cs"])))


@given(PART, st.none() | PART)
@example("%3A", None)
@example("%253A", ":%25:")
@example("", "")
@example("a:b", "%")
def test_parsing_is_the_inverse_of_naming(task: str, tenant: str | None) -> None:
    """All parts come back out of the name, whatever is in them; an empty tenant and no tenant are told apart."""
    assert parse_unit_name(unit_name(task, tenant)) == (task, tenant)


@given(PART, st.none() | PART, PART, st.none() | PART)
def test_two_units_never_share_a_name(task: str, tenant: str | None, other: str, others: str | None) -> None:
    """Names are equal only for the same task and tenant."""
    same = (task, tenant) == (other, others)

    assert (unit_name(task, tenant) == unit_name(other, others)) is same


@pytest.mark.parametrize(
    ("task", "tenant", "name"),
    [
        ("shop.tasks.deliver", None, "perpetual:shop.tasks.deliver"),
        ("shop.tasks.deliver", "acme", "perpetual:shop.tasks.deliver:acme"),
        ("shop.tasks.deliver", "", "perpetual:shop.tasks.deliver:"),
        ("a:b", "c:d", "perpetual:a%3Ab:c%3Ad"),
        ("100%", "50%3A", "perpetual:100%25:50%253A"),
        ("zürich", "東京 1", "perpetual:zürich:東京 1"),
    ],
)
def test_only_colon_and_percent_are_encoded(task: str, tenant: str | None, name: str) -> None:
    """Names stay readable: everything but the two special characters is as the user wrote it."""
    assert unit_name(task, tenant) == name


@pytest.mark.parametrize(
    "name", ["", "perpetual", "deliver", "routine:deliver", "perpetual:a:b:c", "Perpetual:a", ":a"]
)
def test_other_names_are_refused(name: str) -> None:
    """A text that is not the name of a unit is not read as one."""
    with pytest.raises(ValueError, match="is not the name of a unit"):
        parse_unit_name(name)
