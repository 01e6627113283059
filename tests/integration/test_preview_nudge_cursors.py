"""An operator's work by hand: preview, nudge, cursors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

SOURCE = """
def feed(poll):
    ledger.record(poll.trigger, "fed")
    first = poll.cursor or 0
    return Batch([Item((n,), kwargs={"secret": "s3cret"}, key=n, priority=3) for n in range(first, first + 2)],
                 cursor=first + 2)

def held():
    while os.path.exists("hold"):
        time.sleep(0.05)
    return [(1,)]

def nothing(*args, **kwargs): ...

def perpetual_task(name, next_batch, **more):
    return app.task(base=PerpetualTask, name=f"proj.{name}", poll_every=3600, next_batch=next_batch,
                    **more)(nothing)

perpetual_task("feed", feed)
perpetual_task("discreet", feed, perpetual_options=PerpetualOptions(store_args=False))
perpetual_task("held", held)
perpetual_task("bad", lambda: 1 / 0)
perpetual_task("slow", lambda: time.sleep(5), poll_timeout=0.2)
perpetual_task("nothing", lambda: None)
perpetual_task("skip", lambda: Skip("closed on Sundays"))
perpetual_task("defer", lambda: Defer(60))
perpetual_task("pause", lambda: Pause("no more"))
perpetual_task("twice", lambda: [(1,), (1,), (2,), (3,)], max_in_flight=2)
"""

#: Where the broker keeps messages of that priority.
PRIORITY_3 = "celery\x06\x163"


@pytest.fixture
def proj(project: Callable[..., Project]) -> Project:
    return project(SOURCE)


def everything(client: redis.Redis) -> dict[bytes, bytes | None]:
    """Every key of the server with its serialized value."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000)}


def run(proj: Project, *args: str, stdin: str = "") -> tuple[int, str, str]:
    done = proj.celery("perpetual", *args, stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def test_preview_tells_what_a_poll_would_do_and_writes_nothing(console: Console, raw_redis: redis.Redis) -> None:
    """Items, counts and the cursor that would be; every key of the server is as before."""
    console("perpetual.poll('proj.feed')")
    before = everything(raw_redis)

    here = console("perpetual.preview('proj.feed')")
    elsewhere = console("perpetual.preview('proj.feed', cursor=40)")
    from_the_beginning = console("perpetual.preview('proj.feed', cursor=None)")
    cut = console("perpetual.preview('proj.twice')")

    assert (here["status"], here["count"], here["cursor"], here["duplicates"]) == ("enqueued", 2, 4, 0)
    assert here["items"][0] == {
        "task": "proj.feed",
        "key": "2",
        "args": [2],
        "kwargs": {"secret": "s3cret"},
        "options": {"priority": 3},
    }
    assert [item["args"] for item in elsewhere["items"]] == [[40], [41]]
    assert elsewhere["cursor"] == 42
    # The first two are in flight, and the cursor would pass them.
    assert (from_the_beginning["status"], from_the_beginning["duplicates"]) == ("skipped", 2)
    assert from_the_beginning["reason"] == "items_in_flight"
    assert (cut["count"], cut["duplicates"], cut["left_out"]) == (2, 1, 1)
    assert everything(raw_redis) == before
    assert before


DECLINED = {
    "bad": ("failed", "ZeroDivisionError: division by zero"),
    "slow": ("timed_out", "longer than 0.2 s"),
    "nothing": ("empty", None),
    "skip": ("skipped", "closed on Sundays"),
    "defer": ("deferred", "for 0:01:00"),
    "pause": ("paused", "no more"),
}


def test_preview_has_the_status_of_a_poll(console: Console, raw_redis: redis.Redis) -> None:
    """A next_batch that raises, hangs or declines is reported, not stored; there is no back-off and no pause."""
    previews = {name: console(f"perpetual.preview('proj.{name}')") for name in DECLINED}

    assert {name: (found["status"], found["error"] or found["reason"]) for name, found in previews.items()} == DECLINED
    assert [found["items"] for found in previews.values()] == [[]] * len(DECLINED)
    assert everything(raw_redis) == {}


def test_preview_on_the_command_line(proj: Project, raw_redis: redis.Redis) -> None:
    """A table or one JSON object; --cursor takes JSON; exit code 1 for a next_batch that fails."""
    code, out, _ = run(proj, "preview", "proj.feed", "--cursor", "7", "--json")
    found = json.loads(out)
    assert (code, found["status"], [item["key"] for item in found["items"]]) == (0, "enqueued", ["7", "8"])
    code, out, _ = run(proj, "preview", "proj.discreet")
    assert code == 0
    assert "would enqueue 2 of 2 items\n" in out
    assert "s3cret" not in out
    code, out, _ = run(proj, "preview", "proj.bad")
    assert code == 1
    assert "ZeroDivisionError" in out
    assert everything(raw_redis) == {}


def test_preview_hides_arguments_of_a_task_without_store_args(console: Console) -> None:
    """store_args=False: key and options are shown, arguments are not."""
    found = console("perpetual.preview('proj.discreet')")

    assert found["count"] == 2
    assert found["items"][0] == {"task": "proj.discreet", "key": "0", "options": {"priority": 3}}


def test_a_nudge_polls_at_once_and_leaves_the_grid_alone(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """The poll has the trigger `nudge`; its slot is its time, the next one is on the grid. Two nudges are one."""
    every = 4
    proj = project(
        f"""
        @app.task(base=PerpetualTask, poll_every={every}, next_batch=lambda: [])
        def work(): ...
        """
    )
    proj.beat()
    with Console(proj) as console:
        console("len(perpetual.units())")  # from here on it answers at once
        first = wait_until(lambda: poll_events(store_redis), "the first poll")[0]
        # Away from the grid, whatever the machine does meanwhile.
        wait_until(lambda: 1 < (time.time() - first.slot) % every < 2, "a time between two slots")
        nudged_at = time.time()
        assert console("[perpetual.nudge('proj.work'), perpetual.nudge(work)]") == [True, True]
    wait_until(lambda: any(e.slot > nudged_at + 2 for e in poll_events(store_redis)), "the next slot of the grid")
    events = poll_events(store_redis)
    nudged = [event for event in events if event.data["trigger"] == "nudge"]
    others = [event for event in events if event.data["trigger"] != "nudge"]

    assert len(nudged) == 1
    # Slots are whole milliseconds; on a busy machine the console takes its time to ask.
    assert nudged_at - 0.001 <= nudged[0].slot < nudged_at + 2
    assert [(event.slot - first.slot) % every for event in others] == pytest.approx([0] * len(others))
    assert {event.data["trigger"] for event in others} == {"schedule"}


def test_a_poll_reads_from_the_cursor_that_was_set(console: Console, proj: Project, store_redis: redis.Redis) -> None:
    """The next poll reads from where the cursor was set; forgotten, from the beginning; refused while one is open."""
    assert console("perpetual.cursor('proj.feed')") is None
    console("perpetual.set_cursor('proj.feed', 5)")
    assert console("perpetual.cursor('proj.feed')") == 5
    assert console("perpetual.poll('proj.feed')")["cursor"] == 7
    assert [message.args for message in queued(store_redis, PRIORITY_3)] == [[5], [6]]
    console("perpetual.reset_cursor('proj.feed')")
    assert console("perpetual.cursor('proj.feed')") is None
    assert console("perpetual.poll('proj.feed')")["cursor"] == 2
    assert "must be a JSON value" in console.error("perpetual.set_cursor('proj.feed', {1, 2})")
    assert "UnknownTask" in console.error("perpetual.set_cursor('proj.fed', 1)")
    assert "UnknownUnit" in console.error("perpetual.reset_cursor('proj.feed', tenant='x')")

    proj.write("hold", "")
    with Console(proj) as another:
        another.send("perpetual.poll('proj.held')")
        wait_until(lambda: store_redis.hget("perpetual:u:perpetual:proj.held", "claim"), "a poll is open")
        assert "the cursor of proj.held was not set: a poll is open" in console.error(
            "perpetual.set_cursor('proj.held', 1)"
        )
        assert "the cursor of proj.held was not set: a poll is open" in console.error(
            "perpetual.reset_cursor('proj.held')"
        )
        (proj.folder / "hold").unlink()
        assert another.answer()["status"] == "enqueued"
    console("perpetual.set_cursor('proj.held', 1)")
    assert console("perpetual.cursor('proj.held')") == 1


def test_cursors_on_the_command_line(proj: Project, console: Console) -> None:
    """show, set and reset; reset asks first; what is not JSON, or an open poll, is one line and exit code 2."""
    code, out, _ = run(proj, "cursor", "set", "proj.feed", '{"after": 12}')
    assert (code, out) == (0, 'cursor of proj.feed is {"after": 12}\n')
    code, out, _ = run(proj, "cursor", "show", "proj.feed", "--json")
    assert json.loads(out) == {"task": "proj.feed", "tenant": None, "cursor": {"after": 12}}
    code, _, err = run(proj, "cursor", "set", "proj.feed", "abc")
    assert code == 2
    assert "is not JSON" in err

    code, out, err = run(proj, "cursor", "reset", "proj.feed", stdin="n\n")
    assert (code, out) == (1, "")
    assert 'Forget the cursor {"after": 12} of proj.feed' in err
    assert console("perpetual.cursor('proj.feed')") == {"after": 12}
    assert run(proj, "cursor", "reset", "proj.feed", stdin="y\n")[0] == 0
    assert run(proj, "cursor", "show", "proj.feed")[:2] == (0, "null\n")
    console("perpetual.set_cursor('proj.feed', 1)")
    forgotten = run(proj, "cursor", "reset", "proj.feed", "--yes")
    assert forgotten[:2] == (0, "cursor of proj.feed is forgotten; it was 1\n")
    assert console("perpetual.cursor('proj.feed')") is None

    proj.write("hold", "")
    console.send("perpetual.poll('proj.held')")
    wait_until(lambda: proj.redis.hget("perpetual:u:perpetual:proj.held", "claim"), "a poll is open")
    code, out, err = run(proj, "cursor", "set", "proj.held", "1")
    assert (code, out) == (2, "")
    assert err.startswith("Error: the cursor of proj.held was not set: a poll is open")
    (proj.folder / "hold").unlink()
    assert console.answer()["status"] == "enqueued"


@pytest.mark.parametrize("ask", ["perpetual.nudge('proj.slow')", "perpetual.resume('proj.slow')"])
def test_what_is_asked_for_while_a_poll_is_open_is_not_lost(
    project: Callable[..., Project], store_redis: redis.Redis, ask: str
) -> None:
    """The open poll has read already; a nudge, or the end of a pause, brings another one as soon as it has ended."""
    proj = project(
        """
        def rows():
            open("reading", "w").close()
            while not os.path.exists("go on"):
                time.sleep(0.02)

        @app.task(base=PerpetualTask, poll_every=3600, poll_timeout=60, next_batch=rows)
        def slow(): ...
        """
    )
    proj.beat()
    with Console(proj) as console:
        wait_until((proj.folder / "reading").exists, "the first poll reads")
        console("perpetual.pause('proj.slow')")
        assert console(ask) is True
        console("perpetual.resume('proj.slow', from_='kept')")
    proj.write("go on", "")

    wait_until(lambda: len(poll_events(store_redis)) == 2, "another poll")
    assert [event.data["trigger"] for event in poll_events(store_redis)] == ["schedule", ask[10:].partition("(")[0]]


def test_a_run_of_equal_outcomes_is_folded_on_the_stream(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Hundreds of polls that find nothing, and of polls that defer for no time, leave a few events."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.02, next_batch=lambda: [])
        def idle(): ...

        @app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: Batch([Item((1,))], cursor={"at": 1}))
        def moves(n): ...

        @app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: Defer(0))
        def defers(): ...
        """
    )
    proj.beat()
    with Console(proj) as console:
        wait_until(lambda: (console("perpetual.polls('proj.idle')") or [{"repeated": 0}])[0]["repeated"] > 200, "200")
        folded = [event.data["repeated"] for event in poll_events(store_redis, "proj.idle")]
        assert folded == [*range(1, 10), *range(10, 100, 10), *range(100, folded[-1] + 1, 100)]

        (moved,) = poll_events(store_redis, "proj.moves")
        assert "cursor" not in moved.data
        assert console("perpetual.polls('proj.moves')")[0]["cursor"] == {"at": 1}

        deferred = poll_events(store_redis, "proj.defers")
        pauses = [later.slot - earlier.slot for earlier, later in zip(deferred, deferred[1:], strict=False)]
        assert len(pauses) > 3
        assert min(pauses) > 0.09
