"""How arguments show in a message's headers: as Celery's ``saferepr`` shows them, to the character."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from celery import Celery
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st

from celery_perpetual.ledger.reprs import ArgumentReprs

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=8) | st.datetimes() | st.decimals() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(), max_size=3)
    ),
    max_leaves=10,
)  # fmt: skip
ARGS = st.lists(SCALARS | VALUES, max_size=4).map(tuple)
KWARGS = st.dictionaries(st.text(), SCALARS | VALUES, max_size=4)


def app(longest: int = 1024, levels: int | None = 3) -> Celery:
    made = Celery("shop", set_as_current=False)
    made.amqp.argsrepr_maxsize = made.amqp.kwargsrepr_maxsize = longest
    made.conf.task_repr_maxlevels = levels
    return made


APPS = {longest: app(longest) for longest in (4, 40, 1024)}


@given(ARGS, KWARGS, st.sampled_from(sorted(APPS)))
@example(("it's \\ a 'test'\n",), {"ü": "\u2028"}, 1024)
@example((True, 1, 1.0, -0.0, float("nan"), float("inf")), {}, 1024)
@example((Decimal("1.50"), datetime(2026, 11, 29)), {"a": [1, (2,)]}, 1024)
@example(((),), {"": {}}, 4)
def test_arguments_show_as_celery_shows_them(args: Any, kwargs: Any, longest: int) -> None:
    """Quick or not, long or short, whatever is in them."""
    shown = ArgumentReprs(APPS[longest]).show(args, kwargs)

    assert shown == (saferepr(args, longest, maxlevels=3), saferepr(kwargs, longest, maxlevels=3))


@given(ARGS, KWARGS)
def test_judging_does_not_change_what_is_shown(args: Any, kwargs: Any) -> None:
    reprs = ArgumentReprs(APPS[1024])

    assert reprs.show_and_judge(args, kwargs)[0] == reprs.show(args, kwargs)
