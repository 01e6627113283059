"""The demo of the example project, run as a user runs it: its exit status, its report, and what it leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.support import wait_until
from tests.support.processes import group_members

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "example_project"
ITEMS = 150
TROUBLED = {"Falcon Freight", "Granite Gym", "Hazel Hotel", "Iris Inks"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def environment(tmp_path, **changes):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "DATABASE_URL"}}
    ours = {"PYTHONPATH": path, "TMPDIR": str(tmp_path), "DEMO_ITEMS": str(ITEMS), "DEMO_TIMEOUT": "120"}
    return {**kept, **ours, **changes}


def run_demo(tmp_path, **changes):
    """(exit status, output, the demo's JSON)."""
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=PROJECT,
        env=environment(tmp_path, DEMO_JSON=str(result), **changes),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    output = done.stdout + done.stderr
    assert result.exists(), output
    return done.returncode, output, json.loads(result.read_text())


def alive(groups):
    return [process for group in groups for process in group_members(group)]


def groups_in(output):
    """The process groups that the demo said it started."""
    return {int(pid) for pid in re.findall(r": process (\d+)$", output, re.MULTILINE)}


def assert_nothing_runs(report):
    assert set(report["pids"]) == {"receiver", "worker-1", "worker-2", "worker-3", "beat-1", "beat-2"}
    assert not alive(report["pids"].values())


def assert_recovered(output, report):
    """A worker was killed while it was executing something, and all of that was sent again."""
    accident = report["accident"]
    assert accident["pid"] == report["pids"][accident["worker"]]
    assert ITEMS / 3 <= accident["delivered_before"] < ITEMS
    assert accident["held"]
    assert set(accident["held"]) <= set(accident["recovered"])
    assert accident["put_back"] > 0, "it had received nothing that it was not executing"
    assert report["settings"]["perpetual_lease_ttl"] / 2 < accident["seconds"] < 60
    assert report["duplicates"] <= len(accident["recovered"])
    assert f"recovered, the last one sent again {accident['seconds']} s after the kill" in output
    assert f"{report['duplicates']} came twice" in output


def assert_treated(output, report):
    """Each endpoint by itself: those with troubles by their kind, and the others have confirmed what they got."""
    treated = report["treatments"]
    endpoints = treated["endpoints"]
    assert treated["confirmed"] == ITEMS
    assert f"{ITEMS} of {ITEMS} deliveries are confirmed" in output
    assert list(endpoints["Falcon Freight"]["polls"]) == ["failed node"]
    assert endpoints["Falcon Freight"]["state"] == "backing_off"
    assert len(treated["gaps"]) == 3
    assert min(treated["gaps"]) >= 1.95
    assert (endpoints["Hazel Hotel"]["asked"], list(endpoints["Hazel Hotel"]["polls"])) == (0, ["skipped preflight"])
    assert (endpoints["Iris Inks"]["asked"], endpoints["Iris Inks"]["state"]) == (1, "paused")
    assert "WrongToken" in endpoints["Iris Inks"]["reason"]
    others = [each for name, each in endpoints.items() if name not in TROUBLED]
    assert [each["state"] for each in others] == ["active"] * 5
    assert all(set(each["polls"]) <= {"enqueued", "empty"} for each in others)


def answers(url):
    with redis.Redis.from_url(url, socket_timeout=1) as server:
        try:
            return server.ping()
        except redis.ConnectionError:
            return False


@pytest.mark.long
def test_every_delivery_arrives_and_nothing_is_left(tmp_path):
    status, output, report = run_demo(tmp_path)

    assert status == 0, output
    assert (report["items"], report["delivered"]) == (ITEMS, ITEMS)
    assert report["ok"]
    assert report["missing"] == report["changed"] == report["unknown"] == report["disagreeing"] == []
    assert report["repeated"] == []
    assert report["refused"] > 0, "the receiver refused none, so no retry was tried"
    assert report["in_flight"] == 0
    assert report["killed"] == []
    assert (report["digests"]["endpoints"], report["digests"]["missing"], report["digests"]["off"]) == (9, [], 0)
    assert report["digests"]["count"] >= 10, "each endpoint has more than the digest of its first slot"
    assert f"{report['digests']['count']} digests of 9 endpoints" in output
    assert 0 < report["seconds"] < 120
    assert f"{ITEMS} of {ITEMS} deliveries arrived" in output
    for name, value in report["settings"].items():
        assert f"{name} = {value}" in output
    assert_recovered(output, report)
    assert_treated(output, report)
    assert_nothing_runs(report)
    assert not answers(report["broker_url"])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.long
def test_a_lost_delivery_fails_the_demo(tmp_path):
    status, output, report = run_demo(tmp_path, DEMO_SUPPRESS="1")

    assert status == 1, output
    assert not report["ok"]
    assert report["delivered"] == ITEMS - 1
    assert len(report["missing"]) == 1
    assert f"1 never arrived at the receiver: {report['missing'][0]}" in output
    assert_nothing_runs(report)


ADMIN = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)

from celery_perpetual.beat.scheduler_setting import other_scheduler
from celery_perpetual.beat.scheduler import PerpetualScheduler
from django.contrib.auth.models import User
from django.test import Client
from django.test.utils import setup_test_environment
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from outbox_site.celery import app

setup_test_environment()
name = "perpetual:webhooks.tasks.deliver"
every = IntervalSchedule.objects.create(every=5, period="seconds")
row = PeriodicTask.objects.create(name=name, task="webhooks.tasks.deliver", interval=every)
client = Client()
client.force_login(User.objects.create_superuser("admin", password="only for a test"))
pages = "/admin/django_celery_beat/periodictask/"
page = client.get(pages)
print("list", page.status_code, name in page.content.decode(), "wrong", page.context["wrong_scheduler"])
print("form", client.get(f"{pages}{row.pk}/change/").status_code)
client.post(pages, {"action": "disable_tasks", "_selected_action": [row.pk]})
row.refresh_from_db()
print("enabled", row.enabled)
print("other", other_scheduler(app, PerpetualScheduler))
"""


def test_the_admin_shows_the_schedule(tmp_path):
    changes = {"OUTBOX_DB": str(tmp_path / "outbox.sqlite3"), "DJANGO_SETTINGS_MODULE": "outbox_site.settings"}
    done = subprocess.run(
        [sys.executable, "-c", ADMIN],
        cwd=PROJECT,
        env=environment(tmp_path, **changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["list 200 True wrong False", "form 200", "enabled False", "other None"]


COMPARE = """
import sqlite3
from collections import Counter
from pathlib import Path

import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("seed_deliveries", count=4, verbosity=0)

from receiver import SCHEMA
from report import compare
record = Path("{record}")
with sqlite3.connect(record) as db:
    db.executescript(SCHEMA)
    db.executemany("INSERT INTO accepted VALUES (?, '', 0, '')", [(pk,) for pk in (1, 2, 2, 3, 3, 3, 4, 4)])
result = compare(record, 4, Counter({2: 1, 3: 1}))
print("duplicates", result.duplicates, "repeated", result.repeated)
print("\\n".join(result.complaints()))
"""


def test_only_what_was_recovered_may_come_twice(tmp_path, redis_url, store_redis):
    changes = {"OUTBOX_DB": str(tmp_path / "outbox.sqlite3"), "DJANGO_SETTINGS_MODULE": "outbox_site.settings"}
    changes["REDIS_URL"] = redis_url
    done = subprocess.run(
        [sys.executable, "-c", COMPARE.replace("{record}", str(tmp_path / "record.sqlite3"))],
        cwd=PROJECT,
        env=environment(tmp_path, **changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert store_redis.hlen("perpetual:routines") == 9, "each endpoint that is added has a routine"
    assert "duplicates 4 repeated [3, 4]" in done.stdout
    assert "2 arrived more than once although no worker had died with them: 3, 4" in done.stdout


@pytest.mark.matrix
def test_the_time_limit_fails_the_demo(tmp_path):
    # Far more than can be done in the time; whether the report still fits in is left open.
    demo = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=PROJECT,
        env=environment(tmp_path, DEMO_ITEMS="20000", DEMO_TIMEOUT="16"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert "time limit" in demo.stdout + demo.stderr
    assert not alive(groups_in(demo.stdout))


@pytest.mark.matrix
def test_a_server_of_ones_own_is_left_as_it_was(tmp_path, private_redis):
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        client.set("somebody's", "work")
        status, output, report = run_demo(tmp_path, REDIS_URL=server.url)
        left = {key.decode() for key in client.scan_iter()}

    assert status == 0, output
    assert report["broker_url"] == server.url
    assert "perpetual_key_prefix" in report["settings"]
    # Celery keeps one note for all its projects on a server, of what it sweeps itself.
    assert left - {"_kombu.binding_deadlines"} == {"somebody's"}


@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_the_processes_end_with_the_demo(tmp_path, number, status):
    log = tmp_path / "output"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "demo.py"],
            cwd=PROJECT,
            env=environment(tmp_path, DEMO_ITEMS="5000"),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        first = re.compile(r"^ +[1-9]\d*/5000 delivered", re.MULTILINE)
        wait_until(lambda: first.search(log.read_text()), "the first delivery", 60)
        text = log.read_text()
        groups = groups_in(text)
        assert len(groups) == 5
        assert alive(groups)
        demo.send_signal(number)
        assert demo.wait(30) == status
    finally:
        demo.kill()
        demo.wait()
    wait_until(lambda: not alive(groups), "the demo's processes end", 15)
    url = re.search(r"redis://[\d.:/]+\d", text)
    assert url
    wait_until(lambda: not answers(url[0]), "the server ends", 15)
