"""Where this package wraps or uses private parts of others: recognised on what is installed, and missed when changed."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import celery_perpetual
from celery_perpetual.events import SEAM_UNKNOWN, VERSIONS_UNSEEN
from celery_perpetual.seams.seam import SEEN, installed, unseen_packages
from celery_perpetual.seams.table import SEAMS, unknown_seams

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PACKAGE = Path(celery_perpetual.__path__[0])

#: Breaks each target in turn, removed and replaced, and prints those that still look as known.
BREAK = """
import json
from importlib import import_module
from proj import app
from celery_perpetual.seams.table import SEAMS

def other(entirely, different):
    return entirely + different

unseen = []
for seam in SEAMS:
    assert not seam.differences(), seam.differences()
    for target in seam.targets:
        module, _, path = target.path.partition(":")
        *parts, name = path.split(".")
        holder = import_module(module)
        for part in parts:
            holder = getattr(holder, part)
        owner = holder
        if isinstance(holder, type):
            owner = next(cls for cls in holder.__mro__ if name in vars(cls))
        kept = vars(owner)[name]
        if target.parameters or target.uses:
            setattr(owner, name, other)
            if not seam.differences():
                unseen.append(f"{target.path} replaced")
            setattr(owner, name, kept)
        if hasattr(object, name):
            continue
        owners = [each for each in getattr(holder, "__mro__", [owner]) if name in vars(each)]
        every = [(each, vars(each)[name]) for each in owners]
        for each in owners:
            delattr(each, name)
        if not seam.differences():
            unseen.append(f"{target.path} removed")
        for each, value in every:
            setattr(each, name, value)
    assert not seam.differences(), seam.differences()
print(json.dumps(unseen))
"""

CHANGED = """
from kombu.connection import Connection

before = Connection.collect

def collect(self, timeout=None):
    before(self, timeout)

Connection.collect = collect
"""


def test_every_seam_is_as_known_on_what_is_installed() -> None:
    """Each wrapped function and private name is as it was, in the versions that the tests run with."""
    assert [evidence for _, evidence in unknown_seams()] == []
    assert unseen_packages() == []
    assert all(installed(package) for package in SEEN)


def test_a_change_of_any_target_is_seen(project: Callable[..., Project]) -> None:
    """Each is removed, and replaced by something else, in a process whose app is wired."""
    assert json.loads(project("").run_python(BREAK)) == []


def test_a_changed_seam_is_named_by_check_and_by_the_start_of_a_worker(project: Callable[..., Project]) -> None:
    """Both say what it is, what was seen there, and what does not work then; the worker starts all the same."""
    proj = project(CHANGED)

    worker = proj.worker(concurrency=1).ready()
    findings = json.loads(proj.celery("perpetual", "check", "--json").stdout)

    (finding,) = [each for each in findings if "seam" in each["evidence"]]
    assert "seam 'lost broker' is not as known" in finding["evidence"]
    assert "kombu.connection:Connection.collect takes (self, timeout)" in finding["evidence"]
    assert f"kombu {installed('kombu')} (seen: " in finding["evidence"]
    assert finding["meaning"] == "a worker may end when its Redis broker goes away"
    (event,) = worker.events(SEAM_UNKNOWN)
    assert (event["seam"], event["without"]) == ("lost broker", "a worker may end when its Redis broker goes away")


def test_a_new_version_is_named_by_the_start_of_a_worker(project: Callable[..., Project]) -> None:
    """It is not refused: its seams are looked at, and the worker says what it found."""
    proj = project("from celery_perpetual.seams import seam\nseam.SEEN['celery'] = ('5.0', '5.1')\n")

    event = proj.worker(concurrency=1).ready().wait_for_event(VERSIONS_UNSEEN)

    assert event == {"packages": f"celery {installed('celery')}; {len(SEAMS)} of {len(SEAMS)} seams look as known"}


def test_every_seam_is_installed_from_the_list() -> None:
    """Steps are added to a worker's blueprints there and in ``wiring.py``, and nowhere else."""
    adding = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "steps" and ast.unparse(node.value) == "app"
    }

    assert adding <= {"seams/table.py", "wiring.py"}
