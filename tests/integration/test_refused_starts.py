"""A beat or a worker that cannot start says why in one line; a store that does not answer is reported at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [])
def deliver(): ...
"""


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["banner", "quiet"])
def test_beat_refuses_a_wrong_setting_in_one_line(project: Callable[..., Project], quiet: tuple[str, ...]) -> None:
    """The setting, what was seen, exit code 1, and no traceback; also for a wrong name in ``perpetual_disabled``."""
    proj = project(SOURCE, perpetual_leader_ttl=2)
    beat = proj.process("beat", ["-m", "celery", *quiet, "-A", "proj", "beat", "--pidfile="])

    assert beat.wait() == 1
    assert beat.log().count("beat does not start: SettingsError: setting perpetual_leader_ttl must be at least 3") == 1
    assert "Traceback" not in beat.log()


def test_a_worker_refuses_a_wrong_setting_in_one_line(project: Callable[..., Project]) -> None:
    """As beat does; so does ``check``, also where the import of a scheduler raises what no import should."""
    proj = project(SOURCE, perpetual_leader_ttl=2)
    worker = proj.worker()

    assert worker.wait() == 1
    assert worker.log().count("Error: setting perpetual_leader_ttl must be at least 3 seconds, got 2") == 1
    assert "Traceback" not in worker.log()
    other = project(SOURCE, name="other", beat_scheduler="broken:Scheduler")
    other.write("broken.py", "raise RuntimeError('no database')")
    found = other.celery("perpetual", "check")
    assert "beat_scheduler 'broken:Scheduler' cannot be imported (RuntimeError: no database)" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr


def test_beat_refuses_a_misspelt_name_of_a_task_that_is_to_be_disabled(project: Callable[..., Project]) -> None:
    """And so do workers and ``check``; a name that is like none is reported."""
    proj = project(SOURCE, perpetual_disabled=["proj.delivr"])
    beat, worker = proj.beat(), proj.worker()

    assert (beat.wait(), worker.wait()) == (1, 1)
    for process in (beat, worker):
        assert "setting perpetual_disabled names 'proj.delivr', did you mean proj.deliver?" in process.log()
        assert "Traceback" not in process.log()
    found = proj.celery("perpetual", "check")
    assert (found.returncode, "did you mean proj.deliver?" in found.stdout) == (2, True)


def test_beat_reports_a_store_that_does_not_answer_at_once(project: Callable[..., Project]) -> None:
    """It waits for ``perpetual_store_wait``, and says so when it begins to."""
    proj = project(SOURCE, perpetual_store_url="redis://127.0.0.1:1/0", perpetual_store_wait=1)
    beat = proj.beat()

    beat.wait_for_log("waiting for the store, at most 1 s: StoreUnavailable: store redis://127.0.0.1:1/0")
    assert beat.wait() == 1
    wait_until(lambda: "beat does not start: StoreUnavailable" in beat.log(), "it says that it gives up")
    assert "Traceback" not in beat.log()
