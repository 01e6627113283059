"""Only the store sends Redis commands, and only one module of it knows the text of leases and states."""

from __future__ import annotations

import ast
from pathlib import Path

import celery_perpetual
from celery_perpetual.store.commands.leases import LeaseText, StateText
from celery_perpetual.store.commands.records import done_bits

PACKAGE = Path(celery_perpetual.__path__[0])

#: Modules outside the store that may import redis-py, and why.
IMPORTS_OF_REDIS = {
    "embedded.py": "starts a server of its own, and imports nothing else of the package",
    "broker/capturing.py": "kombu's client of a Redis broker, which need not be the store",
    "waiting/hub.py": "the errors of a subscription, which reads its socket by itself",
    "waiting/subscription.py": "the same",
}


def outside_the_store() -> list[tuple[str, ast.AST]]:
    return [
        (name, ast.parse(file.read_text()))
        for file in sorted(PACKAGE.rglob("*.py"))
        if not (name := file.relative_to(PACKAGE).as_posix()).startswith("store/")
    ]


def imports_redis(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
    return any(name.split(".")[0] == "redis" for name in names)


def test_only_the_store_imports_redis() -> None:
    """Others call it by name; the exceptions are few, and each has its reason."""
    importing = {name for name, tree in outside_the_store() if any(map(imports_redis, ast.walk(tree)))}

    assert importing == set(IMPORTS_OF_REDIS)


def test_nobody_else_uses_the_stores_client() -> None:
    """Neither the client nor the connections of scripts are anybody else's."""
    used = [
        f"{name}:{node.lineno}: .{node.attr}"
        for name, tree in outside_the_store()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"redis", "wire"}
    ]

    assert used == []


def test_nobody_else_takes_the_text_of_a_lease_apart() -> None:
    """All code reads a stored lease or state with the codec."""
    split = [
        f"{name}:{node.lineno}"
        for name, tree in outside_the_store()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"split", "rsplit", "partition", "rpartition"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value in ("|", b"|")
    ]

    assert split == []


def test_a_task_may_have_bars_in_its_name() -> None:
    """The name comes last, so that it may be anything."""
    lease = LeaseText.read(b"w@host#1|n1|0|2|1|17|1700000000000|3|requeue|tag|proj.a|b")
    state = StateText.read(b"%064d|" % 17 + b"1|2|3|resend||proj.a|b")

    assert lease.task == state.task == "proj.a|b"
    assert (lease.retries, lease.has_state, lease.token, lease.started_at) == (2, True, 17, 1700000000000)
    assert (state.nesting, state.retries, state.recoveries, state.flag, state.tag) == (1, 2, 3, "resend", "")


def test_a_bitmap_is_as_long_as_it_needs_to_be() -> None:
    """Redis counts bits from the left, and a bitmap ends with the byte of its last bit that was set."""
    assert [at for at in range(24) if done_bits(bytes([0b1000_0001, 0b0100_0000]), at)] == [0, 7, 9]
    assert not done_bits(None, 0)
