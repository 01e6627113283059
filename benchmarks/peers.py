"""Peers run in an environment of their own, as processes that do one thing at a time when they are told to.

A command and its arguments go to the process as a line of JSON, the figures come back as another. So a peer keeps its
connections and its warm caches between rounds, and the rounds of all variants can be taken in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv" / "peers" / "bin" / "python"

if TYPE_CHECKING:
    from typing_extensions import Self


class Peer:
    """One process of a peer."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._argv = [str(PYTHON), str(HERE / program), *arguments]

    @staticmethod
    def installed() -> bool:
        """Whether there is an environment of peers; says so if there is none."""
        if not PYTHON.exists():
            print("the peers are not installed (make bench does that): their rows are left out")
        return PYTHON.exists()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the end of its commands
        self._process.wait(30)

    def __call__(self, command: str, *arguments: Any) -> Any:
        """Ask it to do something; what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps([command, *arguments])}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{self._argv[1]} ended while it was to {command}"
        return json.loads(answer)


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """The other end: do what comes, until nothing comes any more."""
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(commands[command](*arguments)), flush=True)
