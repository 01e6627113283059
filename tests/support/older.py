"""A server whose data go back to an older state, as after a restored snapshot or an asynchronous fail-over."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from celery_perpetual.embedded import EmbeddedServer


def _files(server: EmbeddedServer) -> Path:
    return server.log_file.parent / "appendonlydir"


def copy_files(server: EmbeddedServer, copy: Path) -> None:
    """Copy what a running server with an append-only file has on disk; it writes each change before it answers."""
    shutil.copytree(_files(server), copy)


def put_back(server: EmbeddedServer, copy: Path) -> None:
    """End the server, replace its files by the copy, and start it again at its port."""
    server.stop()
    shutil.rmtree(_files(server))
    shutil.copytree(copy, _files(server))
    server.start()
