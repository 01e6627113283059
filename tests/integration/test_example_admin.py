"""The admin of the example project as a browser uses it, while two beats run: what an admin changes there happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from celery_perpetual.embedded import free_port
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support import Processes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "example_project"
ROW = "perpetual:webhooks.tasks.deliver"
ROWS = "/admin/django_celery_beat/periodictask/"
PASSWORD = "only for a test"


class Form(HTMLParser):
    """The fields that a browser would send with a page's form, as they are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._select = self._text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value")
        kind = given.get("type")
        if tag == "select":
            self._select = name
        elif tag == "textarea":
            self._text = name
            self.fields[name] = ""
        elif tag == "option" and "selected" in given:
            self.fields[self._select] = value or ""
        elif tag == "input" and name and (kind not in ("submit", "checkbox") or "checked" in given):
            self.fields[name] = "on" if value is None and kind == "checkbox" else value or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._text = ""

    def handle_data(self, data: str) -> None:
        if self._text:
            # A browser leaves out the line end behind the tag.
            self.fields[self._text] += data.removeprefix("\n") if not self.fields[self._text] else data


class Browser(requests.Session):
    """Speaks to the admin, and sends forms as its pages have them."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.trust_env = False
        self.base = f"http://127.0.0.1:{port}"

    def page(self, path: str) -> str:
        answer = self.get(self.base + path, timeout=20)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:2000])
        return answer.text

    def submit(self, path: str, **fields: Any) -> str:
        """Fill in a form and send it; the page that follows."""
        filled = Form(self.page(path)).fields | fields
        answer = self.post(self.base + path, filled, headers={"Referer": self.base + path}, timeout=20)
        assert answer.status_code == 200, (path, answer.status_code)
        assert "errorlist" not in answer.text, re.findall(r"errorlist.*?</ul>", answer.text, re.DOTALL)
        return answer.text


@pytest.fixture
def browser(tmp_path: Path, processes: Processes, redis_url: str) -> Iterator[Browser]:
    """Logged in; two beats and the development server run."""
    env = {
        **os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}", "OUTBOX_DB": str(tmp_path / "outbox.sqlite3"),
        "REDIS_URL": redis_url, "OUTBOX_DEBUG": "1", "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }  # fmt: skip
    manage = [sys.executable, str(PROJECT / "manage.py")]
    for command in (["migrate", "-v0"], ["createsuperuser", "--noinput", "--username=admin", "--email=a@example.com"]):
        subprocess.run([*manage, *command], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=60)
    port = free_port()
    server = [*manage, "runserver", "--noreload", f"127.0.0.1:{port}"]
    processes.start("server", server, folder=tmp_path, env=env)
    for name in ("beat-1", "beat-2"):
        beat = [sys.executable, "-m", "celery", "-A", "outbox_site", "beat", "-l", "INFO", "--pidfile="]
        processes.start(name, beat, folder=tmp_path, env=env)
    with Browser(port) as made:

        def answers() -> bool:
            try:
                return bool(made.page("/admin/login/"))
            except requests.ConnectionError:
                return False

        wait_until(answers, "the server answers")
        made.submit("/admin/login/?next=/admin/", username="admin", password=PASSWORD)
        yield made


@pytest.mark.long
def test_what_an_admin_changes_happens(browser: Browser, store_redis: redis.Redis) -> None:
    """Each page opens; a disabled row pauses, an enabled one resumes, another interval is followed at once."""
    front = browser.page("/admin/")
    for path in sorted(set(re.findall(r'href="(/admin/\w+/\w+/)"', front))):
        browser.page(path)
    row = wait_until(lambda: re.search(rf"/periodictask/(\d+)/change/[^>]*>{ROW}<", browser.page(ROWS)), "its row")
    assert "scheduler" not in "".join(re.findall(r'class="errornote".*?</p>', browser.page(ROWS), re.DOTALL))
    number = row[1]

    def paused() -> list[Any]:
        return [json.loads(text) for text in store_redis.hvals("perpetual:paused")]

    browser.submit(ROWS, action="disable_tasks", _selected_action=number)
    (pause,) = wait_until(paused, "it is paused", 5)
    assert (pause["by"], pause["reason"]) == ("django-celery-beat", "disabled in the admin")
    browser.submit(ROWS, action="enable_tasks", _selected_action=number)
    wait_until(lambda: not paused(), "it is resumed", 5)

    browser.submit("/admin/django_celery_beat/intervalschedule/add/", every="2", period="hours")
    every = re.search(
        r"/intervalschedule/(\d+)/change/[^>]*>every 2 hours<",
        browser.page("/admin/django_celery_beat/intervalschedule/"),
    )
    assert every is not None
    browser.submit(f"{ROWS}{number}/change/", interval=every[1])
    due = lambda: store_redis.zscore("perpetual:due", ROW) or 0  # noqa: E731
    now = store_redis.time()[0] * 1000
    wait_until(lambda: due() > now + 3_600_000, "it is polled every two hours", 5)

    browser.submit("/admin/django_celery_beat/crontabschedule/add/", minute="*", timezone="UTC")
    browser.page("/admin/webhooks/endpoint/")
