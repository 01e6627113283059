"""Every call of a script in the package fills all of its slots, and no others: a call that is seldom made is checked too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_perpetual
from celery_perpetual.settings import Settings
from celery_perpetual.store.address import address
from celery_perpetual.store.connection import Store
from celery_perpetual.store.limits import Limits
from celery_perpetual.store.scripts import script

PACKAGE = Path(celery_perpetual.__file__).parent


def calls() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Place, script and slots of each call that names its slots one by one."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if "script(" not in (text := file.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called = (
                node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "begin" else node.func
            )
            if not (isinstance(called, ast.Call) and getattr(called.func, "id", "") == "script"):
                continue
            name, slots = called.args[0], [each.arg for each in node.keywords]
            if isinstance(name, ast.Constant) and None not in slots:
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", name.value, frozenset(filter(None, slots))


CALLS = list(calls())


@pytest.mark.parametrize(("name", "slots"), [each[1:] for each in CALLS], ids=[f"{at} {name}" for at, name, _ in CALLS])
def test_a_call_fills_all_slots(name: str, slots: frozenset[str]) -> None:
    """The store fills the slots that it knows, the call fills the others."""
    store, header = Store(address("redis://127.0.0.1:1"), "P", Limits.of(Settings())), script(name).header
    known = {*header.keys, *header.args, *header.more_keys, *header.more_args}
    needed = {*(each for each in header.keys if each not in store.key_table)}
    needed |= {each for each in header.args if each not in store.constants}

    assert slots <= known
    assert needed <= slots


def test_many_calls_are_read() -> None:
    """A form of call that this test does not understand would leave it without anything to check."""
    assert len(CALLS) > 40
