"""The program of docs/following-an-api.md, against a server with pages, etags and limits; on a leading beat's clock."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support import wait_until
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

PAGE = (Path(__file__).parents[2] / "docs" / "following-an-api.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# A shared task would come up in the apps of later tests as well.
PROGRAM = PROGRAM.replace("@app.task(", "@app.task(shared=False, ")


class Api(ThreadingHTTPServer):
    """Lists of issues by repository, served as the page says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.issues: dict[str, dict[int, str]] = {}
        """By repository: number -> time of the last change."""
        self.asked: list[tuple[str, dict[str, str], int]] = []
        """Repository, parameters and status of each request."""
        self.after_answer: Callable[[], object] | None = None
        """Called once, when a page has been answered."""
        self.busy = 0
        """So many requests are answered with 429."""

    def change(self, repository: str, *numbers: int, at: int) -> None:
        self.issues.setdefault(repository, {}).update(dict.fromkeys(numbers, f"2026-01-01T00:00:{at:02}Z"))

    def rows(self, repository: str, since: str) -> list[dict[str, Any]]:
        known = self.issues.get(repository, {}).items()
        ordered = sorted((at, number) for number, at in known if at >= since)
        return [{"number": number, "updated_at": at} for at, number in ordered]


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        repository = url.path.removeprefix("/repos/").removesuffix("/issues")
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        page, size = int(asked["page"]), int(asked["per_page"])
        rows = self.server.rows(repository, asked.get("since", ""))[(page - 1) * size : page * size]
        body = json.dumps(rows).encode()
        etag = f'"{hash((self.path, body)):x}"'
        status = 304 if self.headers.get("If-None-Match") == etag else 200
        if self.server.busy:
            self.server.busy, status = self.server.busy - 1, 429
        self.server.asked.append((repository, asked, status))
        self.send_response(status)
        self.send_header("ETag", etag)
        if status == 429:
            self.send_header("Retry-After", "20")
        self.send_header("Content-Length", str(len(body) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(body)
        then, self.server.after_answer = self.server.after_answer, None
        if then is not None:
            then()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Tracker:
    """The program, its clock, and what it enqueued."""

    def __init__(self, api: Api, url: str, interval: float) -> None:
        self.names: dict[str, Any] = {"__name__": "tracker"}
        program = PROGRAM.replace("redis://", url).replace(
            "https://api.example.org", f"http://127.0.0.1:{api.server_port}"
        )
        exec(
            program.replace("PAGE = 50", "PAGE = 4").replace("min_interval=0.5", f"min_interval={interval}"), self.names
        )
        self.perpetual, self.task = self.names["perpetual"], self.names["index"]
        self.clock = LeadingClock(self.perpetual)

    def polls(self, repository: str = "acme/shop") -> list[Any]:
        """Outcomes, oldest first."""
        return self.perpetual.polls(self.task, repository)[::-1]

    def poll_until(self, predicate: Callable[[], Any], what: str) -> None:
        def turned() -> Any:
            self.clock.turn()
            return predicate()

        wait_until(turned, what, timeout=20, interval=0.005)

    def poll_again(self, repository: str = "acme/shop") -> Any:
        """Poll a unit at once; return its newest outcome."""
        before = sum(poll.repeated for poll in self.polls(repository))
        self.perpetual.nudge(self.task, repository)
        self.poll_until(lambda: sum(poll.repeated for poll in self.polls(repository)) > before, "polled")
        self.poll_until(lambda: not self.clock.threads.running and self.is_idle(repository), "nothing follows")
        return self.polls(repository)[-1]

    def is_idle(self, repository: str) -> bool:
        """Whether no poll follows at once."""
        unit = next(each for each in self.perpetual.units() if each.tenant == repository)
        return (
            unit.next_poll_at is not None and unit.next_poll_at.timestamp() * 1000 > self.perpetual.store.now() + 1000
        )

    def cursor(self, repository: str = "acme/shop") -> dict[str, Any]:
        found: dict[str, Any] = self.perpetual.cursor(self.task, repository)
        return found

    def close(self) -> None:
        self.clock.close()
        self.perpetual.store.close()
        self.perpetual.app.close()


@pytest.fixture
def tracker(
    request: pytest.FixtureRequest, api: Api, make_app: Callable[..., Celery], redis_url: str
) -> Iterator[Tracker]:
    tracker = Tracker(api, redis_url, getattr(request, "param", 0.25))
    yield tracker
    tracker.close()


def test_catching_up_and_steady_state(api: Api, tracker: Tracker) -> None:
    """Pages follow at once; then the cursor holds time and etag, and nothing modified leaves it as it is."""
    for at in range(10):
        api.change("acme/shop", at, at=at)
    tracker.poll_until(lambda: len(tracker.polls()) >= 4 and tracker.is_idle("acme/shop"), "caught up")

    assert sum(poll.count for poll in tracker.polls()) == 10
    assert [poll.trigger for poll in tracker.polls()][:3] == ["schedule", "drain", "drain"]
    assert tracker.cursor()["since"] == "2026-01-01T00:00:09Z"
    assert tracker.cursor("acme/site") == tracker.names["START"] | {"etag": tracker.cursor("acme/site")["etag"]}

    tracker.poll_again()  # of the last time: nothing but what has been seen; its etag is kept
    steady = tracker.cursor()
    assert steady["etag"]
    unchanged = tracker.poll_again()
    assert (unchanged.status, api.asked[-1][2]) == ("empty", 304)
    assert tracker.cursor() == steady

    api.change("acme/shop", 3, at=20)  # changed again
    api.change("acme/shop", 77, at=9)  # at the very time of the last one
    assert tracker.poll_again().count == 2
    assert tracker.cursor() == {
        "since": "2026-01-01T00:00:20Z",
        "page": 1,
        "seen": ["3@2026-01-01T00:00:20Z"],
        "etag": "",
    }


def test_pages_of_one_time_and_an_empty_page(api: Api, tracker: Tracker) -> None:
    """By page number; one that turns out to be empty goes back to the first."""
    api.change("acme/shop", *range(8), at=5)
    tracker.poll_until(lambda: len(tracker.polls()) == 3, "caught up")

    assert [asked["page"] for repository, asked, _ in api.asked if repository == "acme/shop"][:3] == ["1", "2", "3"]
    assert sum(poll.count for poll in tracker.polls()) == 8
    assert (tracker.cursor()["page"], len(tracker.cursor()["seen"])) == (1, 8)
    api.change("acme/shop", 9, at=5)
    api.change("acme/shop", 10, at=6)
    for _ in range(6):
        tracker.poll_again()
    assert sum(poll.count for poll in tracker.polls()) == 10


def test_what_changes_while_its_list_is_read_hides_nothing(api: Api, tracker: Tracker) -> None:
    """It moves to the end, and everything behind it moves up: still each version is enqueued once."""
    for at in range(6):
        api.change("acme/shop", at, at=at)
    api.after_answer = lambda: api.change("acme/shop", 0, at=30)
    api.change("acme/site", at=0)
    tracker.poll_until(lambda: sum(poll.count for poll in tracker.polls()) >= 7, "all are there")
    assert tracker.cursor()["since"] == "2026-01-01T00:00:30Z"


# The outcome of the first poll is stored long before the second one gets its permit.
@pytest.mark.parametrize("tracker", [1.5], indirect=True)
def test_a_limit_of_one_repository_is_kept_by_the_other(api: Api, tracker: Tracker) -> None:
    """After a 429 with Retry-After all units of the source wait so long; the cursor stays."""
    api.busy = 1
    tracker.poll_until(lambda: tracker.polls() and tracker.polls("acme/site"), "both have an outcome")

    ends = {tracker.polls(each)[0].status: tracker.polls(each)[0] for each in ("acme/shop", "acme/site")}
    assert ends["failed"].error_class == "service"
    assert ends["skipped"].gate == "wait_hint"
    assert 18 < ends["skipped"].value <= 20
    assert len(api.asked) == 1
    assert tracker.cursor() is None
