"""`celery perpetual routines …`, as a shell sees it."""

from __future__ import annotations

import json

import pytest

SOURCE = """
from celery_perpetual import Retries

@app.task
def send(*args, **kwargs):
    print("sent", args, kwargs)
    return list(args)

@app.task
def broken(): raise ValueError("broken on purpose")
"""


@pytest.fixture
def shop(project):
    return project(SOURCE)


def run(shop, *args, stdin=""):
    done = shop.celery("perpetual", "routines", *args, stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def run_json(shop, *args, stdin=""):
    code, out, err = run(shop, *args, "--json", stdin=stdin)
    assert code == 0, err
    return json.loads(out)


def test_a_routine_from_its_creation_to_its_end(shop):
    """Each verb changes what it says, prints one JSON value, and the record shows it."""
    made = run_json(
        shop, "create", "proj.send", "--id", "digest-7", "--every", "6h", "--start-at", "2020-01-01T00:00:00Z",
        "--args", "[7]", "--kwargs", '{"kind": "daily"}', "--options", '{"queue": "mail"}', "--metadata", '{"user": 7}',
        "--retries", '{"max_attempts": 5, "backoff": "30s"}', "--idempotency-key", "digest:7", "--paused",
    )  # fmt: skip

    assert (made["state"], made["args"], made["kwargs"]) == ("paused", [7], {"kind": "daily"})
    assert made["schedule"] == {"kind": "interval", "every": 21600.0, "start_at": "2020-01-01T00:00:00.000Z"}
    assert (made["retries"]["max_attempts"], made["retries"]["backoff"]) == (5, 30.0)
    assert (made["options"], made["metadata"], made["idempotency_key"]) == ({"queue": "mail"}, {"user": 7}, "digest:7")
    assert run(shop, "next") == (1, "no routine is due\n", "")
    assert run_json(shop, "resume", "digest-7")["state"] == "active"
    assert shop.celery("perpetual", "pause", "--routine", "digest-7").stdout.startswith("paused routine digest-7: ")
    assert shop.celery("perpetual", "resume", "--routine", "digest-7").stdout == "resumed routine digest-7\n"
    assert shop.celery("perpetual", "resume", "--routine", "digest-7").returncode == 1
    paused = run_json(shop, "pause", "digest-7", "--reason", "holidays", "--until", "2099-01-31T18:00:00Z")
    assert (paused["pause"]["reason"], paused["pause"]["until"]) == ("holidays", "2099-01-31T18:00:00.000Z")
    assert run(shop, "pause", "digest-7", "--until", "2020-01-31T18:00:00Z")[0] == 2
    assert run_json(shop, "resume", "digest-7", "--from", "kept")["next_run_at"] > "2026"
    assert run(shop, "update", "digest-7", "--next-run-at", "2020-01-01T00:00:00Z")[0] == 0
    assert shop.celery("perpetual", "pause", "--routine", "*", "--reason", "deployment").returncode == 0
    assert run_json(shop, "run-due") == []
    assert shop.celery("perpetual", "resume", "--routine", "*").stdout == "resumed routine *\n"
    assert run_json(shop, "next") == {"next_due_at": "2020-01-01T00:00:00.000Z"}
    assert [each["id"] for each in run_json(shop, "due")] == ["digest-7"]

    changed = run_json(
        shop, "update", "digest-7", "--cron", "0 9 * * mon-fri", "--timezone", "Europe/Berlin", "--metadata", "none",
        "--if-version", str(run_json(shop, "show", "digest-7")["version"]), "--catch-up", "--max-catch-up", "3",
    )  # fmt: skip
    assert changed["schedule"] == {
        "kind": "calendar", "schedule": "crontab 0 9 * * mon-fri (Europe/Berlin)", "catch_up": True, "max_catch_up": 3
    }  # fmt: skip
    assert changed["metadata"] == {}
    assert run(shop, "update", "digest-7", "--every", "5", "--if-version", "1")[0] == 1
    now = run_json(shop, "run-now", "digest-7")
    assert (now["routine_id"], now["status"]) == ("digest-7", "enqueued")
    assert shop.redis.llen("mail") == 1
    code, _, err = run(shop, "delete", "digest-7", "--yes")
    assert (code, "cancel it first" in err) == (1, True)
    assert run(shop, "cancel", "digest-7", stdin="n\n")[0] == 1
    assert run_json(shop, "cancel", "digest-7", "--yes", "--revoke")["state"] == "cancelled"
    assert run(shop, "run-now", "digest-7")[0] == 1
    assert run_json(shop, "delete", "digest-7", "--yes") == {"id": "digest-7", "deleted": True}
    code, out, err = run(shop, "show", "digest-7")
    assert (code, out) == (3, "")
    assert err.startswith("Error: there is no routine 'digest-7'")


def test_many_from_lines_and_many_at_once(shop):
    """A file creates thousands or none; filters act on all that match; lists say that there is more."""
    lines = [
        json.dumps({"task": "proj.send", "args": [n], "every": "1h", "metadata": {"odd": n % 2},
                    "retries": {"max_attempts": 2}, "idempotency_key": f"k{n}"})
        for n in range(1200)
    ]  # fmt: skip
    assert run_json(shop, "create", "--from", "-", stdin="\n".join(lines)) == {"created": 1200, "found": 0}
    assert run_json(shop, "create", "--from", "-", stdin="\n".join(lines[:3])) == {"created": 0, "found": 3}
    wrong = [*lines[:1], "", '{"task": "proj.send", "every": "soon"}']
    code, out, err = run(shop, "create", "--from", "-", stdin="\n".join(wrong))
    assert (code, out) == (2, "")
    assert "line 3: every: 'soon' is not a duration" in err
    code, _, err = run(shop, "create", "--from", "-", stdin='{"task": "proj.send", "evry": 5}')
    assert (code, "did you mean every?" in err) == (2, True)

    code, out, err = run(shop, "list", "--metadata", '{"odd": 1}', "--limit", "2")
    assert (code, len(out.splitlines())) == (0, 3)
    assert out.splitlines()[0].split() == ["ID", "TASK", "STATE", "NEXT", "RUN", "RUNS", "SCHEDULE", "LAST", "ERROR"]
    assert "more than 2" in err
    assert run_json(shop, "pause", "--metadata", '{"odd": 1}') == {"done": 600, "refused": []}
    assert len(run_json(shop, "list", "--state", "paused", "--limit", "5000")) == 600
    ran = run_json(shop, "run-due", "--limit", "100")
    assert [each["status"] for each in ran] == ["enqueued"] * 100
    assert len(run_json(shop, "due", "--limit", "5000")) == 500
    code, out, _ = run(shop, "cancel", "--state", "active", "--yes")
    assert (code, out) == (0, "cancel: 500 done, 0 refused\n")
    code, out, _ = run(shop, "delete", ran[0]["routine_id"], "nobody", "--yes")
    assert (code, out.splitlines()[0]) == (1, "delete: 0 done, 2 refused")


def test_running_here_and_what_is_refused(shop):
    """Tasks run in the command itself; a failed one is its exit code, and wrong fields are named before any is stored."""
    run(shop, "create", "proj.broken", "--id", "once", "--at", "2020-01-01T00:00:00Z")

    code, out, _ = run(shop, "run-due", "--inline")

    assert code == 1
    assert "broken on purpose" in out
    assert 'last error: {"type": "ValueError", "message": "broken on purpose"}' in run(shop, "show", "once")[1]
    code, out, err = run(shop, "create", "proj.send", "--every", "0")
    assert (code, out) == (2, "")
    assert "routine field every must be at least 0.01 seconds, got datetime.timedelta(0)" in err
    assert run(shop, "create", "proj.send", "--every", "5", "--id", "once")[0] == 1
    assert run(shop, "cancel", "--yes")[0] == run(shop, "update", "once")[0] == 2
    assert [each["id"] for each in run_json(shop, "list")] == ["once"]
