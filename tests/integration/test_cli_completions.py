"""`celery perpetual wait` and `completions`, as a shell sees them."""

from __future__ import annotations

import json

from tests.support import wait_until

SOURCE = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((how,), key=how) for how in ("good", "bad")])
def work(how):
    if how == "bad":
        raise ValueError("boom")
    return {"done": how}
"""


def test_the_exit_code_of_wait_tells_how_the_task_ended(project):
    """0 success, 1 another end, 2 usage, 3 unknown id, 4 time-out."""
    shop = project(SOURCE)
    good, bad = json.loads(shop.celery("perpetual", "poll", "proj.work", "--json").stdout)["task_ids"]

    waited = shop.celery("perpetual", "wait", good, "--timeout", "0.3", "--json")
    assert waited.returncode == 4
    assert json.loads(waited.stdout)["status"] == "pending"
    shop.worker(concurrency=1)
    waited = shop.celery("perpetual", "wait", good, "--timeout", "20", "--json")
    assert waited.returncode == 0
    assert json.loads(waited.stdout)["result"] == {"done": "good"}
    waited = shop.celery("perpetual", "wait", bad, "--timeout", "20")
    assert waited.returncode == 1
    assert f'failure  proj.work  {bad}  key bad  arguments ["bad"]' in waited.stdout
    assert "ValueError: boom" in waited.stdout
    nobody = good[:-1] + "9"
    assert shop.celery("perpetual", "wait", nobody, "--timeout", "20").returncode == 3
    assert shop.celery("perpetual", "wait", good).returncode == 2


def test_completions_follows_and_filters(project):
    """One JSON object per line, of the status that was asked for; one that does not exist is refused at once."""
    shop = project(SOURCE)
    for option, value, hint in (("--status", "failed", "failure"), ("--task", "proj.wrok", "did you mean proj.work?")):
        refused = shop.celery("perpetual", "completions", option, value)
        assert (refused.returncode, hint in refused.stderr) == (2, True), refused.stderr
    follower = shop.process(
        "follow", ["-m", "celery", "-A", "proj", "perpetual", "completions", "--json", "--status", "failure"]
    )
    wait_until(lambda: shop.redis.pubsub_numsub("perpetual:done")[0][1] == 1, "the follower listens")
    shop.celery("perpetual", "poll", "proj.work")
    shop.worker(concurrency=1)

    lines = wait_until(lambda: [line for line in follower.log().splitlines() if line], "a line comes")

    completion = json.loads(lines[0])
    assert (completion["status"], completion["error"]["message"]) == ("failure", "boom")
    assert (completion["key"], completion["arguments"]) == ("bad", [["bad"], {}])
    wait_until(lambda: shop.redis.llen("celery") == 0, "both have run")
    assert len([line for line in follower.log().splitlines() if line]) == 1


def test_completions_of_one_tenant_show_no_other(project):
    """Ends of its items and of no other one; a line names the tenant."""
    shop = project(
        """
        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda poll: [(poll.tenant,)], tenants=["acme", "umbrella"])
        def work(name): ...
        """
    )
    follower = shop.process(
        "follow", ["-m", "celery", "-A", "proj", "perpetual", "completions", "--tenant", "umbrella"]
    )
    wait_until(lambda: shop.redis.pubsub_numsub("perpetual:done")[0][1] == 1, "the follower listens")
    for tenant in ("acme", "umbrella"):
        shop.celery("perpetual", "poll", "proj.work", "--tenant", tenant)
    shop.worker(concurrency=1)

    (line,) = wait_until(lambda: [line for line in follower.log().splitlines() if line], "a line comes")
    assert "success  proj.work" in line
    assert "tenant umbrella" in line
    wait_until(lambda: shop.redis.llen("celery") == 0, "both have run")
    assert len([line for line in follower.log().splitlines() if line]) == 1


def test_the_exit_code_of_wait_batch_tells_how_the_items_ended(project):
    """0 all succeeded, 1 some have not, 3 unknown poll, 4 time-out."""
    shop = project(SOURCE)
    poll = json.loads(shop.celery("perpetual", "poll", "proj.work", "--json").stdout)["poll_id"]

    waited = shop.celery("perpetual", "wait-batch", poll, "--timeout", "0.3", "--json")
    assert waited.returncode == 4
    assert json.loads(waited.stdout)["by_status"] == {}
    shop.worker(concurrency=1)
    waited = shop.celery("perpetual", "wait-batch", poll, "--timeout", "20", "--json")
    assert waited.returncode == 1
    assert json.loads(waited.stdout)["by_status"] == {"success": 1, "failure": 1}
    assert shop.celery("perpetual", "wait-batch", "nobody", "--timeout", "1").returncode == 3


def test_stream_begins_where_it_is_told(project):
    """A new group sees the oldest event, or only what happens from then on."""
    shop = project(SOURCE)
    first = json.loads(shop.celery("perpetual", "poll", "proj.work", "--json").stdout)["poll_id"]

    def follow(group, start):
        return shop.process(group, [
            "-m", "celery", "-A", "proj", "perpetual", "stream", "--group", group, "--start", start, "--event", "poll",
            "--json",
        ])  # fmt: skip

    new, old = follow("new", "new"), follow("old", "all")
    wait_until(lambda: len(shop.redis.xinfo_groups("perpetual:events")) == 2, "both groups are there")
    second = json.loads(shop.celery("perpetual", "poll", "proj.work", "--json").stdout)["poll_id"]

    def polls(follower):
        return [json.loads(line)["data"]["poll_id"] for line in follower.log().splitlines() if line]

    wait_until(lambda: polls(old) == [first, second], "the group that began with all has both")
    wait_until(lambda: polls(new) == [second], "the group that began with new has the second")
