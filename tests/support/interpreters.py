"""A Python process that is spoken to line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

from tests.support.forks import start

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Code that ends its process as its own end would, but leaves the modules as they are: to clear all of those that a
#: fork shares with its siblings costs more than most programs of tests.
END = """
import atexit, os, sys, threading
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""


class Interpreter:
    """It runs `code`, and `code` ends with its standard input: so it cannot outlive the test."""

    def __init__(self, code: str, *, folder: Path, env: Mapping[str, str], err: IO[bytes] | None = None) -> None:
        with ExitStack() as theirs:
            # Pipes of this process are closed in every process that it starts.
            their_input, ours_to_write = os.pipe()
            ours_to_read, their_output = os.pipe()
            into = theirs.enter_context(os.fdopen(their_input, "rb"))
            out = theirs.enter_context(os.fdopen(their_output, "wb"))
            self._input, self._output = os.fdopen(ours_to_write, "w"), os.fdopen(ours_to_read)
            errors = err or theirs.enter_context(os.fdopen(os.dup(2), "wb"))
            self._started = start([sys.executable, "-c", code], folder=folder, env=env, out=out, err=errors, into=into)
        self.pid = self._started.pid

    def say(self, line: str) -> None:
        """Send it a line."""
        self._input.write(f"{line}\n")
        self._input.flush()

    def hear(self) -> str:
        """Wait for its next line.

        Raises:
            AssertionError: It ended.
        """
        line = self._output.readline()
        assert line, f"the interpreter ended with {self._started.wait(20)}"
        return line

    def kill9(self) -> None:
        """SIGKILL, in whatever it does, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._started.wait(20)

    def end(self, timeout: float = 20) -> None:
        """End its input and wait for its end.

        Raises:
            subprocess.TimeoutExpired: It did not end; it is killed.
        """
        self._input.close()
        # An answer that was not waited for cannot hold it up.
        self._output.close()
        try:
            self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise
