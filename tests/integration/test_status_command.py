"""The command ``status`` and its probe: five lines, and an exit code that is the state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project


SOURCE = """
@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [])
def good(): ...

BROKEN = os.environ.get("NO_TASKS") and 1 / 0
"""


def test_the_command_prints_five_lines_and_its_exit_code_is_the_state(project: Callable[..., Project]) -> None:
    """Without a beat down, with beat and worker no more than degraded; probes of both, before and after."""
    shop = project(SOURCE)

    def run(*args: str) -> tuple[int, str]:
        done = shop.celery("perpetual", "status", *args)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    code, out = run()
    assert code == 2
    assert [line.split()[:2] for line in out.splitlines() if not line.startswith(" ")] == [
        ["degraded", "store"], ["down", "beat"], ["well", "units"], ["well", "work"], ["degraded", "workers"],
    ]  # fmt: skip
    assert "helps: celery -A proj beat" in out
    assert [run("--liveness", kind)[0] for kind in ("beat", "worker", "any")] == [2, 2, 2]
    beat, worker = shop.beat().ready(), shop.worker(concurrency=1).ready()
    assert run("--liveness", "beat") == (0, "alive\n")
    assert run("--liveness")[0] == 0
    assert [run("--liveness", "worker", "--name", f"{worker.name}@{name}")[0] for name in ("proj", "else")] == [0, 2]
    code, out = run("--json")
    found = json.loads(out)
    assert (code, found["state"]) == (1, "degraded")
    assert [each["kind"] for part in found["areas"] for each in part["findings"]] == ["persistence"]
    assert beat.alive


def test_a_probe_says_nothing_bad_of_a_process_whose_store_is_away(project: Callable[..., Project]) -> None:
    """A restart would not help; the status itself is down, in one line and without a traceback."""
    shop = project(SOURCE, store="redis://:secret@127.0.0.1:1/0")

    probe, status = (shop.celery("perpetual", "status", *args) for args in (("--liveness", "worker"), ()))

    assert (probe.returncode, status.returncode) == (0, 2)
    assert "nothing is known, as the store does not answer" in probe.stderr
    assert status.stdout.startswith("down      store    store redis://:**@127.0.0.1:1/0 did not answer")
    assert "secret" not in status.stdout + status.stderr + probe.stderr
