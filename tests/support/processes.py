"""Processes that a test starts, kills by pid, and cannot leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.forks import start
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from celery_perpetual.event_kind import EventKind

# How long children may outlive the main process of their group before the test fails: a pool's children notice the
# end of their parent by themselves.
GRACE_SECONDS = 5.0

#: Whether `make coverage` measures what these processes execute.
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
SECONDS_TO_WRITE_COVERAGE = 4.0

# Kills the groups that it was told, unless it is told that they are gone, when its input ends: the test process that
# was killed itself cannot do so.
REAPER = """
groups=
while read -r group; do
  case $group in gone) groups= ;; *) groups="$groups -$group" ;; esac
done
[ -z "$groups" ] || kill -s KILL -- $groups
"""


def group_members(group: int) -> list[psutil.Process]:
    """Return the living processes of a process group; zombies are as good as gone."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    except PermissionError:
        pass  # macOS: the group has only zombies left, or a member that is not ours; the list below tells
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return members


class CeleryProcess:
    """One process, mostly of `celery`, in a process group of its own, with its output in a file.

    `whole_group` says what SIGKILL and SIGSTOP are for: True (a worker) the main process and its pool's children
    together, as when a machine or container dies; False (a beat) the one process.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        whole_group: bool = False,
        ready_text: str = "",
    ) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self.whole_group = whole_group
        self.ready_text = ready_text
        # A second process of the same name writes on: its log starts here.
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._started = start(argv, folder=folder, env=env, out=log, err=log)
        self.pid = self._started.pid

    @property
    def alive(self) -> bool:
        """Whether the main process has not ended; it may be stopped by a signal."""
        return self._started.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The main process's exit code, negative for a signal, None while it lives."""
        return self._started.poll()

    def children(self) -> list[int]:
        """Return the pids of the other living processes of the group."""
        return [process.pid for process in group_members(self.pid) if process.pid != self.pid]

    def log(self) -> str:
        """Return what it wrote so far."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = 60) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.log().splitlines()[-lines:])

    def wait_for_log(self, text: str, timeout: float = 30.0, count: int = 1) -> str:
        """Wait until `text` was written `count` times; return the line of the last of them.

        Raises:
            AssertionError: The time is over, or the process ended without having written it.
        """

        def found() -> str | None:
            # Asked for before reading: what was written before the end counts.
            ended = not self.alive
            hits = [line for line in self.log().splitlines() if text in line]
            if len(hits) >= count:
                return hits[count - 1]
            assert not ended, f"{self.name} ended with {self.exit_code} and never wrote {text!r}"
            return None

        line = wait_until(found, f"{self.name} writes {text!r} (times: {count})", timeout, interval=0.05)
        assert line is not None
        return line

    def events(self, kind: EventKind) -> list[dict[str, Any]]:
        """Return the fields of each event of this kind that it has logged so far.

        Its project must be a `Project`, whose processes show the events of their log records.
        """
        lines = (line.partition(f" event=perpetual.{kind.name} ")[2] for line in self.log().splitlines())
        # A line that is being written is not one yet.
        return [json.loads(fields) for fields in lines if fields.endswith("}")]

    def wait_for_event(self, kind: EventKind, timeout: float = 30.0, count: int = 1) -> dict[str, Any]:
        """Wait until an event of this kind was logged `count` times; return the fields of the last of them.

        Raises:
            AssertionError: The time is over, or the process ended before that.
        """

        def found() -> list[dict[str, Any]]:
            # Asked for before reading: what was written before the end counts.
            ended = not self.alive
            logged = self.events(kind)[:count]
            if len(logged) == count:
                return logged
            assert not ended, f"{self.name} ended with {self.exit_code} and logged no event {kind.name}"
            return []

        return wait_until(found, f"{self.name} logs {kind.name} (times: {count})", timeout, interval=0.05)[-1]

    def ready(self, timeout: float = 60.0) -> CeleryProcess:
        """Wait until it says that it works; return itself."""
        self.wait_for_log(self.ready_text, timeout)
        return self

    def signal(self, number: int, *, whole_group: bool = False) -> None:
        """Send a signal to the main process or to the whole group."""
        try:
            (os.killpg if whole_group else os.kill)(self.pid, number)
        except ProcessLookupError:
            raise AssertionError(f"{self.name} has already ended with {self.exit_code}") from None

    def kill9(self, *, whole_group: bool | None = None) -> None:
        """SIGKILL, and wait until what was killed is gone."""
        everything = self.whole_group if whole_group is None else whole_group
        self.signal(signal.SIGKILL, whole_group=everything)
        self._started.wait(20)
        if everything:
            self.wait_for_group(20)

    def stop_signal(self, *, whole_group: bool | None = None) -> None:
        """SIGSTOP: still there, but frozen."""
        self.signal(signal.SIGSTOP, whole_group=self.whole_group if whole_group is None else whole_group)

    def cont(self, *, whole_group: bool | None = None) -> None:
        """SIGCONT: go on after `stop_signal()`."""
        self.signal(signal.SIGCONT, whole_group=self.whole_group if whole_group is None else whole_group)

    def terminate(self, timeout: float = 30.0) -> tuple[int, float]:
        """SIGTERM to the main process, as a supervisor does; return its exit code and the seconds it took."""
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.wait(timeout), time.monotonic() - begun

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the main process's end; return its exit code."""
        try:
            return self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} (pid {self.pid}) did not end within {timeout:g} s") from None

    def wait_for_group(self, timeout: float = GRACE_SECONDS) -> None:
        """Wait until no process of the group lives."""
        wait_until(lambda: not group_members(self.pid), f"the process group of {self.name} is gone", timeout)


class Processes:
    """All processes that one test started."""

    def __init__(self) -> None:
        self.started: list[CeleryProcess] = []
        self._reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        whole_group: bool = False,
        ready_text: str = "",
    ) -> CeleryProcess:
        """Start a process; it ends with the test at the latest."""
        process = CeleryProcess(name, argv, folder=folder, env=env, whole_group=whole_group, ready_text=ready_text)
        self.started.append(process)
        self._tell_reaper(str(process.pid))
        return process

    def end(self, grace: float = GRACE_SECONDS) -> list[str]:
        """Kill what still runs; return complaints about groups that outlived their main process."""
        if MEASURED:
            self._let_end()
        # SIGKILL and no farewell: how a shutdown goes is the matter of tests that call terminate().
        for process in self.started:
            if process.alive:
                process.kill9(whole_group=True)
        complaints = [complaint for process in self.started if (complaint := self._left_over(process, grace))]
        self._tell_reaper("gone")
        self._reaper.communicate()
        return complaints

    def _let_end(self) -> None:
        """Give what still runs a chance to end by itself: a killed process leaves no record of what it executed."""
        alive = [process for process in self.started if process.alive]
        for process in alive:
            process.signal(signal.SIGTERM)
        with suppress(AssertionError):
            wait_until(lambda: not any(process.alive for process in alive), "all ended", SECONDS_TO_WRITE_COVERAGE)

    def _tell_reaper(self, word: str) -> None:
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(f"{word}\n".encode())
        self._reaper.stdin.flush()

    @staticmethod
    def _left_over(process: CeleryProcess, grace: float) -> str | None:
        try:
            process.wait_for_group(grace)
        except AssertionError:
            lines = [f"{p.pid} {' '.join(p.cmdline())[:120]}" for p in group_members(process.pid)]
            process.kill9(whole_group=True)
            return f"{process.name} ended with {process.exit_code} and left behind: {'; '.join(lines)}"
        return None
