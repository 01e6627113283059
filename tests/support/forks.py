"""Starts Python processes: as forks of a process that has imported Celery, or, where that would differ, by exec."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEMPLATE = Path(__file__).with_name("template.py")

#: Environment that an interpreter or a module reads while it starts: PYTHONHASHSEED, LD_PRELOAD.
READ_AT_START = ("PYTHON", "LD_", "COVERAGE")
#: Pools that patch the interpreter before Celery is imported.
PATCHING = ("gevent", "eventlet")
#: In the environment of all tests where each process shall be a fresh interpreter.
BY_EXEC = "PERPETUAL_TEST_BY_EXEC" in os.environ
#: In the environment of a process that shall not have the package before it imports it.
WITHOUT_PACKAGE = "PERPETUAL_TEST_WITHOUT_PACKAGE"


class Started(Protocol):
    """A started process, as far as a test needs it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        ...


def start(
    argv: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    out: IO[bytes],
    err: IO[bytes],
    into: IO[bytes] | None = None,
) -> Started:
    """Start a program in a session of its own; without `into` it has no input."""
    with nullcontext(into) if into else Path(os.devnull).open("rb") as given:
        assert given is not None
        if _may_be_forked(argv, folder, env):
            return Forked(_template(_kind(env)), argv[1:], folder=folder, env=env, files=[given, out, err])
        return subprocess.Popen(
            argv, cwd=folder, env=env, stdin=given, stdout=out, stderr=err, start_new_session=True
        )  # fmt: skip


def _may_be_forked(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> bool:
    if argv[0] != sys.executable or argv[1] not in ("-m", "-c"):
        return False
    if any((folder / each / "sitecustomize.py").exists() for each in env["PYTHONPATH"].split(os.pathsep)):
        return False
    own = {name: value for name, value in env.items() if name.startswith(READ_AT_START)}
    same = {name: value for name, value in os.environ.items() if name.startswith(READ_AT_START)}
    for known in ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        own.pop(known, None)
        same.pop(known, None)
    patches = any(word in each for each in argv for word in PATCHING)
    measured = "COVERAGE_PROCESS_CONFIG" in os.environ
    return not (BY_EXEC or measured or patches) and own == same


def _kind(env: Mapping[str, str]) -> str:
    if WITHOUT_PACKAGE in env:
        return "plain"
    return "django" if "DJANGO_SETTINGS_MODULE" in env else "ours"


class _Template:
    """The process that forks. It ends with this one."""

    def __init__(self, name: str) -> None:
        self._socket, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(TEMPLATE), str(control.fileno()), name], stdin=subprocess.DEVNULL,
            pass_fds=[control.fileno()], start_new_session=True,
            env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        control.close()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}

    def fork(self, request: Mapping[str, object], files: Sequence[IO[bytes]]) -> tuple[int, int]:
        """The number and the pid of the new process; only the number belongs to no other process later."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [each.fileno() for each in files])
            while True:
                number, pid, code = self._read()
                if code is None:
                    return number, pid

    def exit_code(self, number: int) -> int | None:
        """None while it lives."""
        with self._lock:
            self._socket.setblocking(False)
            try:
                while number not in self._ended:
                    self._read()
            except BlockingIOError:
                return None
            finally:
                self._socket.setblocking(True)
            return self._ended[number]

    def _read(self) -> tuple[int, int, int | None]:
        text = self._socket.recv(1024)
        assert text, f"the process that forks ended with {self.process.wait(20)}"
        number, pid, code = json.loads(text)
        if code is not None:
            self._ended[number] = code
        return number, pid, code

    def close(self) -> None:
        """End it."""
        if self._owner == os.getpid():
            self._socket.close()
            self.process.wait(20)


class Forked:
    """A process that was forked from the template."""

    def __init__(
        self,
        template: _Template,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        files: Sequence[IO[bytes]],
    ) -> None:
        self._template = template
        self._number, self.pid = template.fork({"argv": list(argv), "folder": str(folder), "env": dict(env)}, files)

    def poll(self) -> int | None:
        """As of Popen."""
        return self._template.exit_code(self._number)

    def wait(self, timeout: float | None = None) -> int:
        """As of Popen."""
        until = time.monotonic() + (3600 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0)
            time.sleep(0.005)
        return code


_made: dict[str, _Template] = {}


def _template(name: str) -> _Template:
    if name not in _made:
        _made[name] = _Template(name)
        atexit.register(_made[name].close)
    return _made[name]
