"""The command `celery beat` works as without us: help, banner, pid file, longest interval, answers to a ping."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_STANDBY
from tests.support import wait_until
from tests.support.beats import LEADER, SLOTS, leading, wait_for_more
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.django_site import DjangoSite

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

ENTRY = """
@app.task
def entry(): ...

app.conf.redbeat_redis_url = app.conf.broker_url
app.conf.beat_schedule = {"often": {"task": "proj.entry", "schedule": 1, "options": {"queue": "often"}}}
"""


def test_the_options_of_the_command(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Leader and standby have pid files, answer a ping, and say in their banner what they are."""
    proj = project(SLOTS + ENTRY, **LEADER)
    shown = proj.celery("beat", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--scheduler" in shown.stdout

    options = ["--enable-remote-control", "--max-interval", "7"]
    first = proj.beat(*options, "--pidfile", "first.pid", "-n", "first@here")
    leading(store_redis, [first])
    second = proj.beat(*options, "--pidfile", "second.pid", "-n", "second@here")
    second.wait_for_event(LEADER_STANDBY)
    refused = proj.beat("--pidfile", "first.pid")

    assert refused.wait() != 0
    assert "first.pid" in refused.log()
    for beat in (first, second):
        name = "first" if beat is first else "second"
        assert (proj.folder / f"{name}.pid").read_text().strip() == str(beat.pid)
        assert "scheduler -> celery_perpetual.beat.scheduler.PerpetualScheduler" in beat.log()
        assert "maxinterval -> 7.00 seconds" in beat.log()
    assert "leader -> none yet" in first.log()
    assert f"/{first.pid}/" in next(line for line in second.log().splitlines() if "leader -> " in line)
    with Console(proj) as console:
        pong = {"ok": "pong"}
        wait_until(
            lambda: console("app.control.ping(timeout=1)") == [{"first@here": pong}, {"second@here": pong}], "both"
        )
    wait_for_more(store_redis, 2, first.pid, "often")

    for beat in (first, second):
        beat.signal(signal.SIGTERM)
    assert [beat.wait() for beat in (first, second)] == [0, 0]
    assert list(proj.folder.glob("*.pid")) == []


@pytest.mark.parametrize(
    "base", ["celery.beat:Scheduler", "perpetual_redbeat", pytest.param("perpetual_django", marks=pytest.mark.long)]
)
def test_no_schedule_file_where_none_is_needed(
    project: Callable[..., Project], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """Beat writes nothing into its working directory, and the file that is not needed may be nowhere."""
    if base == "perpetual_django":
        with DjangoSite(project, monkeypatch, SLOTS, **LEADER) as site:
            site.run("row('often', interval=interval(1))")
            proj = site.proj
    elif base == "celery.beat:Scheduler":
        proj, base = project(SLOTS + ENTRY, perpetual_base_scheduler=base, **LEADER), "perpetual"
    else:
        proj = project(SLOTS + ENTRY, **LEADER)

    def files() -> set[str]:
        return {
            str(path.relative_to(proj.folder)) for path in proj.folder.rglob("*") if "__pycache__" not in path.parts
        }

    before = files()
    beat = proj.beat("-S", base, "-s", "no/such/folder/schedule", name="beat")
    wait_until(lambda: len(queued(store_redis, "often")) >= 2, "entries are sent")

    assert beat.terminate()[0] == 0
    # SQLite's file has another one beside it while it is open.
    assert {name for name in files() - before if not name.startswith("site.sqlite")} == {"beat.log"}
