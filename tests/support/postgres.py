"""A private PostgreSQL server of one test, which may be stopped and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from celery_perpetual.embedded import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

#: PostgreSQL refuses to run as root; its package makes this user.
USER = "postgres"


def binaries() -> Path | None:
    """Return the folder of `postgres`, None if it is not installed; Debian keeps it off the path."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    on_path = shutil.which("postgres")
    return max(found, default=Path(on_path).resolve().parent if on_path else None)


class PostgresServer:
    """Runs as a child of this process, and ends with the block."""

    def __init__(self, folder: Path) -> None:
        self._binaries = folder
        self._as: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        # A test's own folder is closed to other users.
        self._data = Path(tempfile.mkdtemp(prefix="perpetual-postgres-"))
        self._server: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        if self._as:
            shutil.chown(self._data, USER, USER)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", f"--username={USER}", "data")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._data)

    @property
    def database(self) -> dict[str, Any]:
        """Django's settings for it."""
        return {
            "ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": str(self.port), "USER": USER,
            "NAME": "postgres", "OPTIONS": {"connect_timeout": 2},
        }  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._data / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", "data", *settings],
                cwd=self._data, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as,
            )  # fmt: skip
        address = ["--host=127.0.0.1", f"--port={self.port}"]
        wait_until(lambda: self._ask("pg_isready", *address).returncode == 0, "PostgreSQL answers", 30)

    def stop(self) -> None:
        """Stop it as a machine that is shut down does: connections are cut."""
        if self._server is not None:
            self._run("pg_ctl", "stop", "-D", "data", "-m", "fast")
            self._server.wait(20)
            self._server = None

    def freeze(self) -> None:
        """Stop all its processes by SIGSTOP: connections stay open, and nobody answers."""
        self._signal("suspend")

    def thaw(self) -> None:
        """Let them go on."""
        self._signal("resume")

    def _signal(self, how: str) -> None:
        assert self._server is not None
        main = psutil.Process(self._server.pid)
        for process in [main, *main.children()]:
            getattr(process, how)()

    def _run(self, name: str, *args: str) -> None:
        done = self._ask(name, *args)
        assert done.returncode == 0, f"{name}: {done.stdout.decode()}{done.stderr.decode()}"

    def _ask(self, name: str, *args: str) -> subprocess.CompletedProcess[bytes]:
        command = [str(self._binaries / name), *args]
        return subprocess.run(command, cwd=self._data, capture_output=True, check=False, **self._as)
