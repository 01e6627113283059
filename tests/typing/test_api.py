"""The types of the public names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

API, PREFLIGHTS, WRONG = (Path(__file__).with_name(name) for name in ("api.py", "preflights.py", "wrong.py"))
ROOT = Path(__file__).parents[2]


def test_typed_code_against_the_public_names_is_sound() -> None:
    """A program that uses every public name passes ``mypy --strict``, and what it marks as wrong is found wrong."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", *map(str, (API, PREFLIGHTS, WRONG))]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("Success")


def test_the_program_uses_every_public_name() -> None:
    """A new public name is used there, too."""
    import celery_perpetual

    text = API.read_text()
    head, _, rest = text.partition("\n)\n")
    assert "from celery_perpetual import (" in head
    assert [name for name in celery_perpetual.__all__ if name not in rest] == []
