"""The demo's own processes: started in groups of their own, ended by id, and never left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

# Reads which groups exist from a pipe that only the demo holds. If the demo ends without a word, even by
# SIGKILL, the pipe closes and the guard ends the remaining processes.
GUARD = """
groups=
while read -r verb group; do
    case $verb in
        hold) groups="$groups $group" ;;
        drop)
            kept=
            for each in $groups; do
                [ "$each" = "$group" ] || kept="$kept $each"
            done
            groups=$kept ;;
    esac
done
for each in $groups; do
    kill -s KILL -- "-$each" 2>/dev/null
done
exit 0
"""


@contextmanager
def signals_later() -> Iterator[None]:
    """A signal that comes while a process is being started takes effect once that process is known."""
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in LEAVE}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)


@dataclass
class Process:
    """One program with its log. Its process group has the same number as its process."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    asked: bool = False  # it was asked to end
    killed: bool = False  # it had to be killed
    over: bool = False  # all its processes are gone, and its number may belong to another one

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def terminate(self) -> None:
        """Ask it to end; Celery's main process then sees to its own children."""
        self.asked = True
        if self.running:
            self.popen.terminate()

    def kill(self) -> None:
        """End it and all its children at once, as the machine's power switch would."""
        self.asked = True
        self.killed = self.killed or self.running
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it and its children for a while; the processes that are left afterwards go on."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if not self.over:
                os.killpg(self.pid, signal.SIGCONT)

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


class Fleet:
    """All processes that the demo started."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._guard: subprocess.Popen[bytes] | None = None
        self.all: dict[str, Process] = {}

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        """Start `command` in the project's folder; output goes to `<name>.log`."""
        log = self._logs / f"{name}.log"
        with signals_later(), log.open("ab") as output:
            self._open_guard()
            popen = subprocess.Popen(
                command,
                cwd=self._folder,
                env=None if environ is None else dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the rest in order
            )
            self._tell_guard("hold", popen.pid)
            self.all[name] = Process(name, popen, log)
        return self.all[name]

    def ended(self) -> list[Process]:
        """Processes that ended without having been asked to."""
        return [process for process in self.all.values() if not process.running and not process.asked]

    def crash(self, name: str) -> None:
        """SIGKILL to a process and its children, on purpose: it does not count as an unexpected end."""
        process = self.all[name]
        process.kill()
        process.killed = False
        self._over(process)

    def stop(self, *names: str, grace: float) -> None:
        """End the named processes (all, if none is named): first politely, then not."""
        named = [self.all[name] for name in names] if names else list(self.all.values())
        chosen = [process for process in named if not process.over]
        for process in chosen:
            process.terminate()
        deadline = time.monotonic() + grace
        for process in chosen:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            process.kill()  # also what a crashed parent left behind in the group
            self._over(process)

    def close(self) -> None:
        """End everything, the guard last."""
        self.stop(grace=5)
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.close()
            self._guard.wait()

    def _over(self, process: Process) -> None:
        process.over = True
        self._tell_guard("drop", process.pid)

    def _open_guard(self) -> None:
        if self._guard is None:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _tell_guard(self, verb: str, group: int) -> None:
        if self._guard is None:
            return
        pipe: IO[bytes] | None = self._guard.stdin
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.write(f"{verb} {group}\n".encode())
                pipe.flush()


def wait_until(found: Callable[[], bool], timeout: float, what: str) -> None:
    """Look every 50 ms; TimeoutError names what did not come."""
    deadline = time.monotonic() + timeout
    while not found():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout:g} s")
        time.sleep(0.05)
