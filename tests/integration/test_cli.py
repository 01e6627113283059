"""The verbs of `celery perpetual`, as a shell sees them."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.support import wait_until

SOURCE = """
@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [(1,), (2,)])
def good(n): ...

@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: 1 / 0)
def bad(n): ...
"""


@pytest.fixture
def shop(project):
    return project(SOURCE)


def run(shop, *args):
    done = shop.celery("perpetual", *args)
    return done.returncode, done.stdout, done.stderr


def test_poll_enqueues_and_its_exit_code_tells_failure(shop):
    """`poll` prints what it did; 0 for a poll that worked, 1 for one that failed, 2 for an unknown task."""
    code, out, _ = run(shop, "poll", "proj.good", "--json")
    outcome = json.loads(out)

    assert (code, outcome["status"], outcome["count"]) == (0, "enqueued", 2)
    assert shop.redis.llen("celery") == 2
    assert len(outcome["task_ids"]) == 2
    code, out, _ = run(shop, "poll", "proj.bad")
    assert code == 1
    assert "failed: 0 items, ZeroDivisionError: division by zero" in out
    code, _, err = run(shop, "poll", "proj.god")
    assert code == 2
    assert "did you mean proj.good?" in err


def test_reading_verbs_print_one_json_value_and_nothing_else(shop):
    """`units` and `polls` print an array, `why` an object, `check` an array."""
    run(shop, "poll", "proj.good")

    units = {unit["task"]: unit for unit in json.loads(run(shop, "units", "--json")[1])}
    polls = json.loads(run(shop, "polls", "proj.good", "--json")[1])
    why = json.loads(run(shop, "why", "proj.good", "--json")[1])
    code, out, _ = run(shop, "check", "--json")

    assert units["proj.good"]["in_flight"] == 2
    assert units["proj.bad"]["last_poll"] is None
    assert [poll["status"] for poll in polls] == ["enqueued"]
    assert why["unit"]["task"] == "proj.good"
    assert [
        finding["evidence"] for finding in json.loads(out) if "leader" in finding["help"] or "beat" in finding["help"]
    ]
    assert code == 1


def test_pause_and_resume_take_one_scope(shop):
    """A paused task is shown with its reason; resuming what is not paused exits with 1, no scope with 2."""
    assert run(shop, "pause", "--task", "proj.good", "--reason", "upgrade", "--until", "2099-01-01T00:00:00Z")[0] == 0
    good = next(u for u in json.loads(run(shop, "units", "--json")[1]) if u["task"] == "proj.good")

    assert (good["state"], good["reason"]) == ("paused", "upgrade")
    code, out, _ = run(shop, "poll", "proj.good")
    assert code == 0
    assert "it is paused (upgrade); a poll by hand takes place all the same" in out
    assert run(shop, "resume", "--task", "proj.good", "--from", "kept")[0] == 0
    assert run(shop, "resume", "--task", "proj.good")[0] == 1
    assert run(shop, "pause")[0] == 2
    assert run(shop, "pause", "--task", "proj.good", "--until", "tomorrow")[0] == 2


def test_tables_for_people_name_state_and_reason(shop):
    """Without --json the same is a table, and `why` says what helps."""
    run(shop, "poll", "proj.bad")

    units = run(shop, "units")[1].splitlines()
    why = run(shop, "why", "proj.bad")[1]

    heads = "TASK STATE IN FLIGHT BACKLOG PER MIN 15 MIN LAG SOURCE WAIT BUDGET HELD BACK NEXT POLL LAST POLL REASON"
    assert units[0].split() == heads.split()
    assert units[1].startswith("proj.bad")
    assert "no beat holds the lead" in why
    assert "ZeroDivisionError" in why


def test_an_unreachable_store_is_one_line_and_exit_code_two(project):
    """No command prints a traceback for a server that is down, or its password."""
    shop = project(SOURCE, store="redis://:secret@127.0.0.1:1/0")

    code, out, err = run(shop, "units")

    assert code == 2
    assert out == ""
    assert err.startswith("Error: store redis://:**@127.0.0.1:1/0 did not answer")
    assert "Traceback" not in err
    assert "secret" not in err


def test_nudge_tells_whether_a_leader_has_the_task(shop):
    """0 where the leader polls it at once, 1 where none has it, 2 for an unknown task."""
    assert run(shop, "nudge", "proj.good")[:2] == (1, "no leader polls proj.good\n")
    shop.beat().ready()
    wait_until(lambda: shop.redis.zcard("perpetual:due") == 2, "the leader knows the tasks")

    code, out, _ = run(shop, "nudge", "proj.good", "--json")

    assert (code, json.loads(out)) == (0, {"nudged": True})
    assert run(shop, "nudge", "proj.god")[0] == 2


def test_a_shell_completes_verbs_options_and_names_of_tasks(shop):
    """As bash asks for it: the words so far, and which one is to be completed."""

    def completed(*words):
        env = {"_CELERY_COMPLETE": "bash_complete", "COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
        # As the script does that pip has made of Celery's entry point.
        script = "import sys; sys.argv = ['celery']; from celery.__main__ import main; sys.exit(main())"
        return [line.partition(",")[2] for line in shop.run_python(script, env=env).splitlines()]

    assert completed("celery", "-A", "proj", "perpetual", "statu") == ["status"]
    assert completed("celery", "-A", "proj", "perpetual", "units", "--state", "pa") == ["paused"]
    assert completed("celery", "-A", "proj", "perpetual", "why", "proj.") == ["proj.bad", "proj.good"]
