"""Lists of the command line that are cut: they say so, and how to see more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_perpetual.cli import perpetual as group

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


def test_items_say_that_there_are_more(watched_app: Callable[..., WatchedApp]) -> None:
    """Beside the table or the JSON, where rows are left out and only there."""
    one = watched_app()
    task = one.poll([(1,), (2,), (3,)]).task

    for limit, more in ((2, "there are more than 2; --limit 20 shows more of them\n"), (3, "")):
        for as_json in (False, True):
            words = ("items", task, "--limit", str(limit), *(["--json"] if as_json else []))
            shown = CliRunner().invoke(group, words, obj=CLIContext(app=one.app, no_color=True, workdir=None))

            rows = json.loads(shown.stdout) if as_json else shown.stdout.splitlines()[1:]
            assert (shown.exit_code, shown.stderr, len(rows)) == (0, more, limit)
