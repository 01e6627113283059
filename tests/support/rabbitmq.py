"""A private RabbitMQ node that all test processes of a run share and that cannot outlive the run.

The run's first process holds the writing end of a named pipe. Whichever test needs RabbitMQ first starts the node,
under a shell that reads from that pipe: when the run ends, however it ends, the shell kills the node.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from celery_perpetual.embedded import free_port
from tests.support.processes import group_members
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_SECONDS = 60

# Popen objects that nobody waits for; kept, because losing one is a warning.
_guards: list[subprocess.Popen[bytes]] = []

# epmd, Erlang's name server, would otherwise be started as a daemon on its usual port and stay for ever.
GUARD = """
folder=$1; home=$2; epmd=$3; server=$4; port=$5
"$epmd" -port "$port" -address 127.0.0.1 </dev/null & names=$!
"$server" </dev/null &
read -r _
if [ -s "$home/pid" ]; then kill -9 "$(cat "$home/pid")" "$names" && wait; fi
rm -rf -- "$folder"
kill -9 0
"""

# Debian's script on the path changes to the system's user, who may not write here; the real one lies beside it.
SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
CONTROLS = ("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl")


def server_binary() -> str | None:
    """Return the path of `rabbitmq-server`, None if it is not installed."""
    return next((found for name in SERVERS if (found := shutil.which(name))), None)


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Hold the pipe on which the node's life depends; enter it in the run's first process."""
    pipe = folder / "run"
    os.mkfifo(pipe)
    # Reading and writing, as opening it for writing alone would wait for a reader.
    held = os.open(pipe, os.O_RDWR)
    try:
        yield folder
    finally:
        file = folder / "guard"
        guard = int(file.read_text()) if file.exists() else None
        os.close(held)
        if guard is not None:
            wait_until(lambda: not group_members(guard), "the RabbitMQ node is gone", timeout=10)


class Node:
    """A running node, seen from a test process."""

    def __init__(self, amqp_port: int, http_port: int, variables: dict[str, str]) -> None:
        self.amqp_port = amqp_port
        self.http_port = http_port
        self.variables = variables
        """By which RabbitMQ's own programs find the node."""

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """Make a virtual host of its own for one test, yield its URL, delete it."""
        name = uuid4().hex
        self.api("PUT", f"vhosts/{name}")
        try:
            yield f"amqp://guest:guest@127.0.0.1:{self.amqp_port}/{name}"
        finally:
            self.api("DELETE", f"vhosts/{name}")

    def api(self, method: str, path: str, body: object = None) -> bytes:
        """Call RabbitMQ's management interface; a body is sent as JSON."""
        login = b64encode(b"guest:guest").decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        with closing(urllib.request.urlopen(request, timeout=20)) as answer:  # noqa: S310 - always http on loopback
            found: bytes = answer.read()
            return found

    def control(self, *arguments: str) -> None:
        """Run `rabbitmqctl`."""
        program = next(found for name in CONTROLS if (found := shutil.which(name)))
        subprocess.run(
            [program, *arguments], env=without_own(os.environ) | self.variables, check=True, capture_output=True
        )

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Inside, the node has a memory alarm: it takes no message of any publisher."""
        self.control("set_vm_memory_high_watermark", "0")
        try:
            yield
        finally:
            self.control("set_vm_memory_high_watermark", "0.9")

    def start_again(self) -> None:
        """Start the node that was killed; it ends with the run, as the first one does."""
        home = Path(self.variables["HOME"])
        with (home / "log").open("ab") as log:
            _guards.append(
                subprocess.Popen(
                    [server_binary() or "rabbitmq-server"], cwd=home, env=without_own(os.environ) | self.variables,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip

    def listens(self) -> bool:
        """Whether it accepts AMQP connections."""
        try:
            self.api("GET", f"health/checks/port-listener/{self.amqp_port}")
        except OSError:
            return False
        return True


def shared_node(folder: Path, binary: str, arguments: str = "") -> Node:
    """Return the run's node; the first caller starts it while the others wait.

    Args:
        folder: of the run.
        binary: the path of `rabbitmq-server`.
        arguments: further arguments of Erlang.

    Raises:
        RuntimeError: It did not start; every later caller gets the same error at once.
    """
    state = folder / "node.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not state.exists():
            state.write_text(json.dumps(_start(folder, binary, arguments)))
    answer = json.loads(state.read_text())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return Node(answer["amqp_port"], answer["http_port"], answer["variables"])


def _start(folder: Path, binary: str, arguments: str) -> dict[str, object]:
    epmd = shutil.which("epmd")
    if epmd is None:
        return {"error": "rabbitmq-server is installed, but Erlang's epmd is not on the path"}
    home = folder / "rabbitmq"
    home.mkdir()
    amqp_port, http_port, epmd_port, dist_port = (free_port() for _ in range(4))
    variables = _environment(home, amqp_port, http_port, epmd_port, dist_port, arguments)
    # Opened here so that the guard cannot miss the end of a run that ends just now, and without waiting for a writer.
    pipe = os.open(folder / "run", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(pipe, True)
    try:
        with (home / "log").open("wb") as log:
            guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "guard", str(folder), str(home), epmd, binary, str(epmd_port)],
                cwd=home,
                env=without_own(os.environ) | variables,
                stdin=pipe,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        os.close(pipe)
    _guards.append(guard)
    (folder / "guard").write_text(str(guard.pid))
    node = Node(amqp_port, http_port, variables)
    deadline = time.monotonic() + START_SECONDS
    while not node.listens():
        if time.monotonic() > deadline:
            tail = (home / "log").read_text(errors="replace")[-4000:]
            return {"error": f"RabbitMQ did not start within {START_SECONDS} s:\n{tail}"}
        time.sleep(0.1)
    return {"amqp_port": amqp_port, "http_port": http_port, "variables": variables}


def without_own(environment: Mapping[str, str]) -> dict[str, str]:
    """Without settings of RabbitMQ: the machine's stay out."""
    return {key: value for key, value in environment.items() if not key.startswith("RABBITMQ_")}


def _environment(
    home: Path, amqp_port: int, http_port: int, epmd_port: int, dist_port: int, arguments: str
) -> dict[str, str]:
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp_port}\n"
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {http_port}\n"
        "log.console = true\nlog.file = false\n"
    )
    (home / "plugins").write_text("[rabbitmq_management].\n")
    variables = {
        "NODENAME": f"perpetual-{uuid4().hex[:8]}@localhost",
        "DIST_PORT": str(dist_port),
        "MNESIA_BASE": str(home / "mnesia"),
        "LOG_BASE": str(home / "logs"),
        "PID_FILE": str(home / "pid"),
        "ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "CONFIG_FILE": str(home / "rabbitmq"),
        "GENERATED_CONFIG_DIR": str(home / "config"),
        # Files that do not exist, so that the machine's own settings stay out.
        "ADVANCED_CONFIG_FILE": str(home / "none"),
        "CONF_ENV_FILE": str(home / "none"),
        "SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {arguments}",
    }
    return {
        **{f"RABBITMQ_{key}": value for key, value in variables.items()},
        # For the cookie file.
        "HOME": str(home),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
