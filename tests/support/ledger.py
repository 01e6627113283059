"""The record that tasks of a test keep, outside of Celery and of the package under test.

This file is copied into every test project: a task says ``ledger.record(self.request.id, "start")``, the test reads
the rows. It uses nothing but the standard library.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

FILE = Path(__file__).with_name("ledger.sqlite")


def _connection(file: Path) -> sqlite3.Connection:
    # A connection per call, as a forked child must not use its parent's. Autocommit: when record() returns, the row
    # is there, whoever is killed next. Without fsync, as processes die here and not the machine.
    connection = sqlite3.connect(file, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS ledger"
        " (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, what TEXT, pid INTEGER, time REAL)"
    )
    return connection


def record(id: object, what: object = "ran") -> None:  # noqa: A002 - the column's name
    """Append one row, with this process's pid and the time of day."""
    with closing(_connection(FILE)) as connection:
        connection.execute(
            "INSERT INTO ledger (id, what, pid, time) VALUES (?, ?, ?, ?)",
            (str(id), str(what), os.getpid(), time.time()),
        )


def rows(file: Path = FILE) -> list[tuple[str, str, int, float]]:
    """Return all rows in the order in which they were written."""
    with closing(_connection(file)) as connection:
        return connection.execute("SELECT id, what, pid, time FROM ledger ORDER BY number").fetchall()
