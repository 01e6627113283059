"""The verbs of routines on a real terminal: bars where thousands are touched, and none where there is no terminal."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Project

SOURCE = """
@app.task
def send(n): ...
"""
MANY = 1200


@pytest.fixture
def proj(project: Callable[..., Project]) -> Project:
    return project(SOURCE)


@pytest.fixture
def terminal(proj: Project) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("tmux is not installed")
    terminal = Terminal(proj)
    yield terminal
    terminal.close()


@pytest.mark.long
def test_bars_of_verbs_that_touch_thousands(proj: Project, terminal: Terminal) -> None:
    """Creating counts what it reads, as a file does not say how long it is; the others show how much is done."""
    lines = [json.dumps({"task": "proj.send", "args": [n], "at": "2020-01-01T00:00:00Z"}) for n in range(MANY)]
    (proj.folder / "routines.jsonl").write_text("\n".join(lines))

    terminal.start("routines", "create", "--from", "routines.jsonl")
    terminal.shows("creating  [", f"{MANY} created, 0 were there", "exit code 0")
    terminal.start("routines", "pause", "--all")
    terminal.shows("pause  [####", f"{MANY}/{MANY}", f"pause: {MANY} done, 0 refused", "exit code 0")
    terminal.start("routines", "resume", "--state", "paused", "--json")
    terminal.shows("resume  [####", f'"done": {MANY}', "exit code 0")
    terminal.start("routines", "run-due", "--limit", "3")
    terminal.shows("starting  [", "enqueued", "exit code 0")

    piped = proj.celery("perpetual", "routines", "cancel", "--all", "--yes")
    assert (piped.stdout, piped.stderr) == (f"cancel: {MANY} done, 0 refused\n", "")
