"""A real terminal, of tmux."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.support import Project


class Terminal:
    """A terminal of tmux, on a server of this test."""

    def __init__(self, proj: Project) -> None:
        self._proj = proj
        self._started = 0

    def start(self, *verb: str, width: int = 80, **env: str) -> None:
        """Run a verb in a terminal of this width and 24 lines; what it prints stays when it has ended.

        Args:
            **env: further variables of its environment.
        """
        self.start_all(verb, width=width, **env)

    def start_all(self, *verbs: tuple[str, ...], width: int = 80, **env: str) -> None:
        """The same for several verbs, one after the other."""
        self.close()
        self._started += 1
        program = [sys.executable, "-m", "celery", "-A", "proj", "perpetual"]
        command = "; ".join(f"{shlex.join([*program, *verb])}; echo exit code $?" for verb in verbs)
        env = self._proj.env({"TERM": "xterm-256color", **env})
        # With COLUMNS in the environment a program would not ask the terminal.
        env = {name: value for name, value in env.items() if name not in ("TMUX", "COLUMNS", "LINES")}
        self._tmux(
            "-f", os.devnull, "new-session", "-d", "-x", str(width), "-y", "24",
            f"{command}; exec sleep 600", env=env,
        )  # fmt: skip

    def lines(self, *, joined: bool = False) -> list[str]:
        """All lines since the start, at most 2000; where they are joined, those that the terminal has wrapped are one."""
        return self._tmux("capture-pane", "-p", "-S", "-2000", *(["-J"] if joined else [])).rstrip().splitlines()

    def shows(self, *texts: str, timeout: float = 40.0) -> str:
        """Wait until all of these are on the screen, and return it."""
        seen = [""]

        def there() -> bool:
            seen[0] = self._tmux("capture-pane", "-p")
            return all(text in seen[0] for text in texts)

        try:
            wait_until(there, f"{texts} are on the screen", timeout, interval=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen[0]}") from None
        return seen[0]

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", "24")

    def close(self) -> None:
        """End the terminal and all that runs in it."""
        with suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *args: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._proj.folder / f"tmux{self._started}"), *args],
            cwd=self._proj.folder,
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout
