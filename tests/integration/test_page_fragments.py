"""The fragments of README and docs are run in a project with beat and a worker; their commands are understood.

Pages that are programs have tests of their own, which :data:`ELSEWHERE` names; the script ``tests/smoke/pages.py`` follows
the files of README, start and Django.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import click
import pytest

from celery_perpetual.cli import perpetual

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
#: Tests that run the programs of a page.
ELSEWHERE = {
    "start.md": "smoke/pages.py", "testing.md": "integration/test_docs.py", "routines.md": "integration/test_routine_page.py",
    "outbox.md": "integration/test_outbox_page.py", "tenants.md": "integration/test_tenants.py",
    "following-an-api.md": "integration/test_api_page.py",
}  # fmt: skip
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
#: A block that is a file of a project, which the script follows.
IS_FILE = re.compile(r"# [\w/]+\.py\b")

SOURCE = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(3)])
def deliver(n):
    return n

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item(("ada",), key="ada")])
def greet(name): ...

@app.task(base=PerpetualTask, name="shop.tasks.deliver", poll_every=3600, next_batch=list)
def shop_deliver(pk): ...

@app.task
def send_report(user): ...
"""

#: Names that the text around the fragments of a page has introduced.
BEFORE = {
    "README.md": "from datetime import timedelta",
    "waiting.md": "class order: pk, save = 1, staticmethod(lambda: None)",
    "diagnosing.md": "page = print",
    # The framework is not installed for the tests; its decorators are all that is used of it.
    "async.md": """
        import sys, types
        framework = sys.modules["fastapi"] = types.ModuleType("fastapi")
        framework.HTTPException = Exception
        framework.FastAPI = lambda: types.SimpleNamespace(post=lambda path: lambda function: function)
        """,
    "failures.md": "due = list; api = None",
    "leases.md": "due = list",
    "operating.md": "due = list; kubernetes = None",
    "migrating.md": "Row = None",
    "preflights.md": "due, accounts, connect, api = list, ['acme'], None, None",
    "django.md": """
        import django
        from django.conf import settings
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
        django.setup()
        import sys, types
        module = sys.modules["proj.celery"] = types.ModuleType("proj.celery")
        module.app = app
        """,
}

#: Calls of the functions that a page has defined.
AFTER = {
    "async.md": "assert asyncio.run(send(1))['status'] == 'success'; assert asyncio.run(poll()) == {'nudged': True}",
}

RUN = """
import ast, asyncio, inspect, itertools, json, pathlib, time
from proj import *

def polled():
    "A poll by hand, which is skipped while one that a page has nudged is open."
    while not (poll := perpetual.poll("proj.deliver")).task_ids:
        time.sleep(0.1)
    return poll

# Streams never end by themselves.
follow, perpetual.stream = perpetual.stream, lambda *args, **options: itertools.islice(follow(*args, **options), 3)
for page in json.loads(pathlib.Path("pages.json").read_text()):
    poll = polled()
    names = {**globals(), "ids": poll.task_ids, "task_id": poll.task_ids[0], "poll_id": poll.poll_id}
    exec(page["before"], names)
    for code in page["blocks"]:
        made = eval(compile(code, page["name"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if inspect.iscoroutine(made):
            asyncio.run(made)
    exec(page["after"], names)
    perpetual.wait_batch(poll.poll_id, 30)
    print("ran", page["name"], len(page["blocks"]))
"""


def fragments(page: str) -> list[str]:
    """The blocks of Python of a page that are no files."""
    blocks = [dedent(code) for _, kind, code in BLOCK.findall(PAGES[page]) if kind in ("python", "py")]
    return [code for code in blocks if not IS_FILE.match(code)]


def test_fragments_run(project: Callable[..., Project]) -> None:
    """Each page by itself, its blocks in their order."""
    pages = [
        {"name": name, "before": dedent(BEFORE.get(name, "")), "after": AFTER.get(name, ""), "blocks": blocks}
        for name in sorted(PAGES.keys() - ELSEWHERE.keys())
        if (blocks := fragments(name))
    ]
    proj = project(SOURCE, result_backend="cache+memory://")
    proj.write("pages.json", json.dumps(pages))
    proj.beat()
    proj.worker(concurrency=1)

    printed = proj.run_python(RUN, timeout=90)

    for page in pages:
        assert f"ran {page['name']} {len(page['blocks'])}" in printed


def test_pages_of_programs_have_tests() -> None:
    """Which read the page."""
    for page, test in ELSEWHERE.items():
        assert page in (TESTS / test).read_text(encoding="utf-8"), page


def commands() -> list[str]:
    """Every command of ours in README and docs, in blocks and in sentences."""
    found: set[str] = set()
    for text in PAGES.values():
        found.update(re.findall(r"celery -A \w+ (perpetual [^`\n|]*)", text))
    return sorted({each.split(" #")[0].partition(" 2>")[0].rstrip(" ,;…") for each in found})


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verb, arguments and options; a page may name a verb without its arguments."""
    (tmp_path / "routines.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    if words in ([], ["VERB"]):
        return
    group: click.Command = perpetual
    while isinstance(group, click.Group) and words:
        found = group.commands.get(words[0])
        assert found is not None, f"there is no verb {words[0]}"
        group, words = found, words[1:]
    if words:
        with group.make_context("celery", words):
            pass
