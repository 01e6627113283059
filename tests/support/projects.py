"""A Celery project in a folder of its own, to be run by real `celery` processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import redis

import celery_perpetual
from tests.support import event_log, ledger
from tests.support.commands import Commands
from tests.support.forks import WITHOUT_PACKAGE, start
from tests.support.interpreters import END, Interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.processes import CeleryProcess, Processes

# Where the package lies, be it a checkout or an installed wheel.
PACKAGE_ROOT = Path(celery_perpetual.__path__[0]).parent

PLAIN = """\
import datetime
import os
import time

import event_log
import ledger
from celery import Celery, shared_task, signals

signals.after_setup_logger.connect(event_log.show_events)

app = Celery({name!r}, broker={broker!r})
app.conf.update({config})
"""

PERPETUAL = """\
from celery_perpetual import *

perpetual = Perpetual(app)
"""


class Row(NamedTuple):
    """One line that a task wrote into the ledger."""

    id: str
    what: str
    pid: int
    time: float


class Project:
    """A module on disk with an app, and the processes that run it.

    The module's source is: ``app`` (configured), ``perpetual`` with all public names of the package (unless the
    project is a plain one), ``ledger``, and then the test's own source. Its processes show events in their log.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        processes: Processes,
        redis_url: str,
        broker: str | None = None,
        name: str = "proj",
        perpetual: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.url = redis_url
        self.broker = broker or redis_url
        self.redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._processes = processes
        self._commands: Commands | None = None
        self._own_env = {} if perpetual else {WITHOUT_PACKAGE: "1"}
        settings = {"broker_connection_retry_on_startup": True, **(config or {})}
        if perpetual and self.broker != redis_url:
            settings.setdefault("perpetual_store_url", redis_url)
        head = PLAIN.format(name=name, broker=self.broker, config=repr(settings))
        self.write(f"{name}.py", "\n".join([head, PERPETUAL if perpetual else "", dedent(source)]))
        for module in (event_log, ledger):
            shutil.copy(str(module.__file__), folder)
        # Made before several processes want to be the first to write: switching to a write-ahead log cannot wait.
        ledger.rows(folder / "ledger.sqlite")

    def write(self, path: str, text: str) -> Path:
        """Write a further file of the project."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return file

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the project's processes."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
        for fault in ("PERPETUAL_CRASH_AT", "PERPETUAL_FREEZE_AT"):
            inherited.pop(fault, None)
        return {
            **inherited,
            "PYTHONPATH": f"{self.folder}{os.pathsep}{PACKAGE_ROOT}",
            "PYTHONUNBUFFERED": "1",
            # A file that is written again within a second, with as many bytes, would not be read again.
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._own_env,
            **(more or {}),
        }

    def at_start(self, code: str) -> dict[str, str]:
        """Return an environment in which a process of the project runs `code` before it imports anything."""
        self.write("at_start/sitecustomize.py", code)
        return {"PYTHONPATH": os.pathsep.join([str(self.folder / "at_start"), self.env()["PYTHONPATH"]])}

    def beat(self, *args: str, env: Mapping[str, str] | None = None, name: str | None = None) -> CeleryProcess:
        """Start `celery beat`; `args` are added to its command line.

        A `name` used before means the same beat again: same schedule file, same log.
        """
        name = name or self._next_name("beat")
        argv = ["beat", "-l", "INFO", "--pidfile=", "-s", str(self.folder / f"{name}.schedule"), *args]
        return self._start(name, argv, env, whole_group=False, ready_text="beat: Starting...")

    def worker(
        self,
        *args: str,
        pool: str = "prefork",
        concurrency: int = 2,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> CeleryProcess:
        """Start `celery worker`; `args` are added to its command line.

        Gossip and mingle are off, as a start is one second faster without them; `args` cannot switch them on again,
        `celery()` can.
        """
        name = name or self._next_name("worker")
        argv = ["worker", "-l", "INFO", "-P", pool, "-c", str(concurrency), "-n", f"{name}@{self.name}"]
        argv += ["--without-gossip", "--without-mingle", *args]
        return self._start(name, argv, env, whole_group=True, ready_text=" ready.")

    def process(
        self, name: str, argv: list[str], *, env: Mapping[str, str] | None = None, whole_group: bool = False
    ) -> CeleryProcess:
        """Start any Python process of the project: ``argv`` follows ``python``."""
        return self._processes.start(
            name, [sys.executable, *argv], folder=self.folder, env=self.env(env), whole_group=whole_group
        )

    def celery(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``celery -A proj …`` to its end; the exit code is the test's to judge.

        The first one imports the project for all of them.
        """
        if self._commands is None:
            self._commands = Commands(self)
        return self._commands.run(args, stdin)

    def interpreter(self, code: str, *, err: IO[bytes] | None = None) -> Interpreter:
        """Start a Python process of the project that is spoken to line by line."""
        return Interpreter(code, folder=self.folder, env=self.env(), err=err)

    def run_python(self, code: str, *, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> str:
        """Run code in a fresh interpreter and return what it printed.

        Raises:
            AssertionError: It ended with an error; the text has its traceback.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = start(
                [sys.executable, "-c", dedent(code) + END], folder=self.folder, env=self.env(env), out=out, err=err
            )
            try:
                code_ = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            for each in (out, err):
                each.seek(0)
            printed, errors = out.read().decode(), err.read().decode()
        assert code_ == 0, f"exit code {code_}\n{printed}\n{errors}"
        return printed

    def rows(self, what: str | None = None) -> list[Row]:
        """Return what the tasks recorded, oldest first; only rows of one kind if `what` is given."""
        every = [Row(*row) for row in ledger.rows(self.folder / "ledger.sqlite")]
        return [row for row in every if what is None or row.what == what]

    def close(self) -> None:
        """Close the client; the processes are ended by their own fixture."""
        self.redis.close()
        if self._commands is not None:
            self._commands.close()

    def _next_name(self, kind: str) -> str:
        taken = {process.name for process in self._processes.started}
        return next(f"{kind}{n}" for n in range(1, 1000) if f"{kind}{n}" not in taken)

    def _start(
        self, name: str, argv: list[str], env: Mapping[str, str] | None, *, whole_group: bool, ready_text: str
    ) -> CeleryProcess:
        return self._processes.start(
            name,
            [sys.executable, "-m", "celery", "-A", self.name, *argv],
            folder=self.folder,
            env=self.env(env),
            whole_group=whole_group,
            ready_text=ready_text,
        )
