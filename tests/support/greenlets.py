"""gevent and eventlet, which a developer may lack and CI may not."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def need(library: str) -> None:
    """Fail in CI, and skip elsewhere, where the library is not installed."""
    if find_spec(library) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{library} is not installed: run make again")
