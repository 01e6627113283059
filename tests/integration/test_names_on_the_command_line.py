"""Names and options that an operator gets wrong are answered in words that help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_perpetual.cli import perpetual as group

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


@pytest.fixture
def run(watched_app: Callable[..., WatchedApp]) -> Callable[..., Result]:
    one = watched_app()
    one.task([(1,)])

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(group, words, obj=CLIContext(app=one.app, no_color=True, workdir=None))

    return invoke


def test_a_pause_that_stops_no_unit_says_so(run: Callable[..., Result]) -> None:
    """It holds all the same: a unit may come; the answer for programs stays whole."""
    none = "no unit is in it now; if one should be, correct the name and resume this one\n"

    misspelt, right, everything = (
        run("pause", *words) for words in (("--queue", "celry"), ("--queue", "celery"), ("--all",))
    )

    assert (misspelt.exit_code, none in misspelt.output) == (0, True)
    assert none not in right.output + everything.output
    assert none not in run("pause", "--tenant", "acme", "--json").output


def test_all_beside_another_scope_is_named(run: Callable[..., Result]) -> None:
    """Something was given to act on, and too much."""
    done = run("pause", "--all", "--task", "app.work", "--queue", "celery")

    assert done.exit_code == 2
    assert "--all stands alone; leave it or --task and --queue out" in done.output


def test_a_routine_of_a_task_that_this_app_does_not_have(run: Callable[..., Result]) -> None:
    """It is created, as a worker may have the task, and the nearest name is said."""
    unknown, known = (
        run("routines", "create", "app.wrk", "--every", "1h"),
        run("routines", "create", "app.work", "--every", "1h"),
    )

    assert (unknown.exit_code, known.exit_code) == (0, 0)
    assert "this app has no task 'app.wrk'" in unknown.output
    assert "did you mean app.work?" in unknown.output
    assert "this app has no task" not in known.output


@pytest.mark.parametrize(("given", "code"), [("200ms", 4), ("0", 4), ("soon", 2), ("-1", 2)])
def test_a_timeout_is_a_duration(run: Callable[..., Result], given: str, code: int) -> None:
    """As that of `drain`; a negative one is refused."""
    assert run("wait", "anybodys", "--timeout", given).exit_code == code
