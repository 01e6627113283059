"""Every way to reach a Redis server works for beat, worker and waiting: sockets, TLS, Sentinel, logins, databases."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_perpetual.embedded import free_port
from celery_perpetual.events import STORE_LOST
from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import leader, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import CeleryProcess, Processes, Project

SOURCE = """
def feed(poll):
    first = poll.cursor or 0
    return Batch([Item((n,), key=n) for n in range(first, first + 3)], cursor=first + 3)

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=feed)
def work(n):
    ledger.record(n)
"""


def check(proj: Project) -> tuple[CeleryProcess, CeleryProcess]:
    """Let beat and worker run; every id runs once, in order of the cursor, and a waiter hears of an end."""
    beat, worker = proj.beat(), proj.worker(concurrency=1)
    wait_until(lambda: len(proj.rows("ran")) >= 12, "twelve items run")
    with Console(proj) as console:
        outcomes = console("perpetual.polls('proj.work', limit=100)")
        ids = [task_id for outcome in outcomes for task_id in outcome["task_ids"]]
        ended = console(f"perpetual.wait({ids[-1]!r}, 20)")
    numbers = [int(row.id) for row in proj.rows("ran")]

    assert ended["status"] == "success"
    assert {outcome["status"] for outcome in outcomes} == {"enqueued"}
    assert sorted(numbers) == list(range(len(numbers)))
    return beat, worker


def test_broker_and_store_over_a_unix_socket(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Broker and store by `redis+socket://`, in a database of its own."""
    server = private_redis(options={"unixsocket": "s"})
    path = server.log_file.with_name("s")

    proj = project(SOURCE, broker=f"redis+socket://{path}?virtual_host=2", store=server.url, perpetual_store_url=None)
    check(proj)

    with redis.Redis.from_url(server.url) as other, redis.Redis(unix_socket_path=str(path), db=2) as used:
        assert other.dbsize() == 0
        assert used.exists("perpetual:leader")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=redis", "-out", str(cert)]
    words += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key)]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=digitalSignature,keyCertSign"]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls(
    system_redis: EmbeddedServer, private_redis: Callable[..., EmbeddedServer], certificate: tuple[Path, Path]
) -> tuple[EmbeddedServer, int]:
    """A server of the system's redis-server with a second port for TLS."""
    cert, key = certificate
    port = free_port()
    options = {"tls-port": port, "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}
    words = {name: str(value) for name, value in {**options, "tls-auth-clients": "no"}.items()}
    return private_redis(binary=system_redis.binary, options=words), port


@pytest.mark.parametrize("by", ["url", pytest.param("setting", marks=pytest.mark.matrix)])
def test_broker_and_store_over_tls(
    project: Callable[..., Project], tls: tuple[EmbeddedServer, int], certificate: tuple[Path, Path], by: str
) -> None:
    """`rediss://` with its options in the URL, or in broker_use_ssl."""
    server, port = tls
    url = f"rediss://127.0.0.1:{port}/0"
    config: dict[str, Any] = {"perpetual_store_url": None}
    if by == "url":
        url += f"?ssl_cert_reqs=required&ssl_ca_certs={certificate[0]}"
    else:
        config["broker_use_ssl"] = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(certificate[0])}

    check(project(SOURCE, broker=url, store=server.url, **config))


def test_tls_refuses_a_server_that_nobody_vouches_for(
    project: Callable[..., Project], tls: tuple[EmbeddedServer, int]
) -> None:
    """With ssl_cert_reqs=required and the usual authorities the store is not trusted, and `check` says so."""
    url = f"rediss://127.0.0.1:{tls[1]}/0?ssl_cert_reqs=required"
    done = project(SOURCE, broker=url, store=tls[0].url, perpetual_store_url=None).celery("perpetual", "check")

    assert done.returncode == 2
    assert "certificate verify failed" in done.stdout.lower()
    assert "Traceback" not in done.stderr


class Sentinels:
    """A master, a replica, and three sentinels that watch them."""

    NAME = "mymaster"

    def __init__(self, binary: str, processes: Processes, folder: Path) -> None:
        self._binary, self._processes, self._folder = binary, processes, folder
        self.master_port, self.replica_port = free_port(), free_port()
        plain = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"]
        self.master = self._start("master", ["--port", str(self.master_port), *plain])
        self.replica = self._start(
            "replica", ["--port", str(self.replica_port), *plain, "--replicaof", f"127.0.0.1 {self.master_port}"]
        )
        self.ports = [self._sentinel(number) for number in range(3)]

    @property
    def url(self) -> str:
        return ";".join(f"sentinel://127.0.0.1:{port}" for port in self.ports)

    def agree(self) -> bool:
        """Whether the replica has everything and each sentinel knows it and the two others."""
        with redis.Redis(port=self.replica_port) as replica:
            if replica.info("replication").get("master_link_status") != "up":
                return False
        return all(self._knows(port) for port in self.ports)

    def _knows(self, port: int) -> bool:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            known = sentinel.info("sentinel")["master0"]
        return bool(known["slaves"] == 1 and known["sentinels"] == 3 and known["status"] == "ok")

    def _sentinel(self, number: int) -> int:
        port, folder = free_port(), self._folder / f"sentinel{number}"
        folder.mkdir()
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}"]
        lines += [f"sentinel monitor {self.NAME} 127.0.0.1 {self.master_port} 2"]
        lines += [f"sentinel down-after-milliseconds {self.NAME} 1000", f"sentinel failover-timeout {self.NAME} 5000"]
        (folder / "sentinel.conf").write_text("\n".join(lines))
        self._start(f"sentinel{number}", [str(folder / "sentinel.conf"), "--sentinel"])
        return port

    def _start(self, name: str, args: list[str]) -> CeleryProcess:
        process = self._processes.start(name, [self._binary, *args], folder=self._folder, env={})
        process.wait_for_log("monitor master" if name.startswith("sentinel") else "Ready to accept connections")
        return process


@pytest.fixture
def sentinels(system_redis: EmbeddedServer, processes: Processes, tmp_path: Path) -> Iterator[Sentinels]:
    """Servers of the system's redis-server with a fail-over."""
    assert system_redis.binary
    folder = tmp_path / "sentinels"
    folder.mkdir()
    return Sentinels(system_redis.binary, processes, folder)


@pytest.mark.slow
def test_a_fail_over_by_sentinels(project: Callable[..., Project], sentinels: Sentinels) -> None:
    """The master is killed: beat goes on with the replica, and what that has is whole: each id once, none left out."""
    wait_until(sentinels.agree, "the sentinels know each other and the replica")
    proj = project(
        SOURCE,
        broker=sentinels.url,
        store=f"redis://127.0.0.1:{sentinels.replica_port}/0",
        perpetual_store_url=None,
        broker_transport_options={"master_name": sentinels.NAME},
        perpetual_leader_ttl=3,
    )
    beat = proj.beat()
    # Read from the replica, so that it has them.
    wait_until(lambda: len(queued(proj.redis)) >= 9, "three batches are in both servers")

    sentinels.master.kill9()
    before = len(poll_events(proj.redis))
    wait_until(lambda: proj.redis.info("replication")["role"] == "master", "the replica is promoted", timeout=40)
    wait_until(lambda: len(poll_events(proj.redis)) >= before + 4, "beat polls on", timeout=40)
    numbers = [message.args[0] for message in queued(proj.redis)]
    assert numbers == list(range(len(numbers)))
    assert beat.alive
    assert beat.events(STORE_LOST) == []

    proj.worker(concurrency=1)
    wait_until(lambda: len(proj.rows("ran")) >= len(numbers), "a worker that comes by Sentinel runs them")
    ran = [int(row.id) for row in proj.rows("ran")]
    assert sorted(ran) == list(range(len(ran)))
    assert (leader(proj.redis) or (0, 0))[0] == beat.pid


def test_the_store_on_another_server_than_the_broker(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """While nobody dies each id is there once; messages are in one server, everything of ours in the other."""
    broker, store = private_redis(), private_redis()

    proj = project(SOURCE, broker=broker.url, store=store.url)
    check(proj)

    with redis.Redis.from_url(broker.url, decode_responses=True) as client:
        assert [key for key in client.scan_iter() if key.startswith("perpetual")] == []
        assert client.exists("_kombu.binding.celery")
    assert {str(key).split(":")[0] for key in proj.redis.scan_iter()} == {"perpetual"}


@pytest.mark.parametrize("user", ["", "shop"], ids=["password", "user and password"])
def test_a_password_in_the_url(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], user: str
) -> None:
    """It is used everywhere, also with characters that a URL must escape, and no log shows it."""
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        if user:
            client.acl_setuser(user, enabled=True, passwords=["+p@ss/w"], keys="*", channels="*", categories=["+@all"])
            client.acl_setuser("default", enabled=False)
        else:
            client.config_set("requirepass", "p@ss/w")
    url = f"redis://{user}:p%40ss%2Fw@127.0.0.1:{server.port}/0"

    proj = project(SOURCE, broker=url, store=url)
    beat, worker = check(proj)

    for log in (beat.log(), worker.log()):
        assert "p@ss" not in log
        assert "p%40ss" not in log


def test_a_credential_provider_in_the_url(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Kombu asks it for the password of the broker, and so does the store."""
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "of the moment")
    url = f"redis://127.0.0.1:{server.port}/0?credential_provider=vault.Provider"

    proj = project(SOURCE, broker=url)
    proj.write(
        "vault.py",
        """
import redis

class Provider(redis.CredentialProvider):
    def get_credentials(self):
        return ("of the moment",)
""",
    )

    check(proj)


def test_everything_is_in_the_database_of_the_url(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Everything is in the database that the URL names, nothing in any other."""
    server = private_redis()
    url = f"redis://127.0.0.1:{server.port}/5"

    proj = project(SOURCE, broker=url, store=url)
    check(proj)

    assert set(proj.redis.info("keyspace")) == {"db5"}


def test_messages_go_into_the_prefixed_queue(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Messages go into the prefixed queue that the workers read, and no queue without the prefix comes into being."""
    server = private_redis()

    proj = project(SOURCE, broker=server.url, store=server.url, broker_transport_options={"global_keyprefix": "shop_"})
    _, worker = check(proj)
    worker.kill9()
    wait_until(lambda: proj.redis.llen("shop_celery") >= 3, "further messages wait")

    assert not proj.redis.exists("celery")
    assert {key.replace(":", "_").split("_")[0] for key in map(str, proj.redis.scan_iter())} == {"shop", "perpetual"}
