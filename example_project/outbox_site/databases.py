"""Which database the rows live in: SQLite by default, PostgreSQL by `DATABASE_URL`."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured


def from_environment(environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The `default` entry of Django's DATABASES; `folder` is where SQLite goes if nothing is said."""
    if url := environ.get("DATABASE_URL"):
        return postgresql(url)
    return sqlite(environ.get("OUTBOX_DB") or str(folder / "outbox.sqlite3"))


def sqlite(path: str) -> dict[str, Any]:
    """SQLite that several worker processes may write to at once."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            # A writer waits for its turn instead of failing with "database is locked" ...
            "timeout": 20,
            # ... also in a transaction that begins by reading, which could not wait later on.
            "transaction_mode": "IMMEDIATE",
            # With a write-ahead log readers and the one writer do not block each other.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def postgresql(url: str) -> dict[str, Any]:
    """`postgresql://user:password@host:port/name?sslmode=require`, percent-encoding as in any URL."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(
            f"DATABASE_URL has the scheme {parts.scheme!r}; this project knows postgresql:// "
            "(leave DATABASE_URL unset for SQLite)."
        )
    if not any(importlib.util.find_spec(driver) for driver in ("psycopg", "psycopg2")):
        raise ImproperlyConfigured(
            "DATABASE_URL asks for PostgreSQL, whose driver is not installed. "
            'Install it with: python -m pip install "psycopg[binary]"'
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": dict(parse_qsl(parts.query)),
    }
