"""The servers of the benchmarks, and where they run, for people."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import psutil
import redis

from celery_perpetual.embedded import EmbeddedServer

#: "no" in it measures without persistence.
APPEND_ONLY = "BENCH_APPEND_ONLY"

#: The machine is quiet where other processes use less of it than this part.
QUIET = 0.15


def is_append_only() -> bool:
    """Whether the stores write every change to disk, as the README recommends."""
    return os.environ.get(APPEND_ONLY) != "no"


def bench_server() -> EmbeddedServer:
    """A store of its own for one bench."""
    return EmbeddedServer(appendonly=is_append_only())


def surroundings() -> dict[str, str]:
    """The conditions of a run, beside the code: server, persistence, client, interpreter."""
    with bench_server() as server, redis.Redis.from_url(server.url) as client:
        found = client.info("server")
    hiredis = importlib.util.find_spec("hiredis") is not None
    return {
        "server": f"{found.get('server_name', 'redis')} {found.get('valkey_version') or found['redis_version']}",
        "append-only": "yes" if is_append_only() else "no",
        "redis-py": redis.__version__,
        "hiredis": importlib.metadata.version("hiredis") if hiredis else "no",
        "Celery": importlib.metadata.version("celery"),
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "machine": "quiet" if others_share() < QUIET else "busy",
    }


def others_share() -> float:
    """The part of the machine's processor time that other processes use just now, between 0 and 1."""
    return psutil.cpu_percent(interval=1.0) / 100
