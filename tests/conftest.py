"""Fixtures of all tests, and the guards that no test may get past."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import redis
from celery import _state
from hypothesis import settings

from celery_perpetual.embedded import EmbeddedServer

# Before they are imported: their assertions shall show as much as those of tests.
pytest.register_assert_rewrite("tests.support")

from tests.support import Processes, Project, wait_until  # noqa: E402
from tests.support.order import from_another_file, in_parts  # noqa: E402
from tests.support.postgres import PostgresServer, binaries  # noqa: E402
from tests.support.rabbitmq import Node, run_folder, server_binary, shared_node  # noqa: E402
from tests.support.stepping import SteppingServer, library  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery

# Four test processes share two cores: a slow example says nothing.
settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")

RUN_FOLDER = pytest.StashKey[Path]()
PROCESSES = pytest.StashKey[Processes]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole run, xdist's workers included, one folder that lives as long as its first process."""
    gc.disable()  # until the tests are collected, which leaves little to collect
    if hasattr(config, "workerinput"):
        config.stash[RUN_FOLDER] = Path(config.workerinput["run_folder"])
        return
    folder = Path(tempfile.mkdtemp(prefix="perpetual-run-"))
    config.stash[RUN_FOLDER] = folder
    stack = ExitStack()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.enter_context(run_folder(folder))
    config.add_cleanup(stack.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give an xdist worker the run's folder."""
    node.workerinput["run_folder"] = str(node.config.stash[RUN_FOLDER])


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Let each test process import the tests of a folder from another file on: the first that does compiles it for all."""
    report = yield
    if isinstance(collector, pytest.Directory):
        report.result = from_another_file(report.result, getattr(collector.config, "workerinput", None))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Any:
    """Let each test process begin with its long tests, and look only at their garbage."""
    items.sort(key=lambda item: item.path)
    result = yield
    items[:] = in_parts(items, getattr(config, "workerinput", {}).get("workercount", 1))
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show what a failed test's processes wrote."""
    report = yield
    if report.failed and (processes := item.stash.get(PROCESSES, None)):
        for process in processes.started:
            state = "alive" if process.alive else f"ended with {process.exit_code}"
            report.sections.append((f"{process.name}, pid {process.pid}, {state}", process.log_tail()))
    return report


@pytest.fixture(autouse=True)
def celery_as_before() -> Iterator[None]:
    """Take back what a test gives to every app of this process: shared tasks, and the current app."""
    finalizers, current, default = set(_state._on_app_finalizers), _state._tls.current_app, _state.default_app
    yield
    _state._on_app_finalizers.intersection_update(finalizers)
    _state._tls.current_app, _state.default_app = current, default


@pytest.fixture(autouse=True)
def no_leftover_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running in this process."""
    before = set(threading.enumerate())
    yield
    wait_until(
        lambda: not _new_threads(before),
        f"the test's threads end: {', '.join(sorted(t.name for t in _new_threads(before)))}",
        timeout=5,
    )


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """The private server of this test process. Never stop it: `private_redis` makes one for that."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The address of this test process's server, which is empty."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def store_redis(redis_url: str) -> Iterator[redis.Redis]:
    """A client of `redis_url` that returns str."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def raw_redis(redis_url: str) -> Iterator[redis.Redis]:
    """A client of `redis_url` that returns bytes."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def private_redis() -> Iterator[Callable[..., EmbeddedServer]]:
    """Start servers that the test may stop, kill and restart; arguments as of `EmbeddedServer`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(EmbeddedServer(**options))


@pytest.fixture
def system_redis() -> Iterator[EmbeddedServer]:
    """A private server of the system's own `redis-server`, an older relative of the usual one."""
    binary = shutil.which("redis-server") or _missing("redis-server")
    with EmbeddedServer(binary=binary) as server:
        yield server


@pytest.fixture
def stepping_redis(tmp_path: Path) -> Iterator[SteppingServer]:
    """A private server whose clock the test sets."""
    faketime = library() or _missing("libfaketime")
    folder = tmp_path / "stepping"
    folder.mkdir()
    with SteppingServer(folder, faketime) as server:
        yield server


@pytest.fixture
def rabbitmq_node(pytestconfig: pytest.Config) -> Node:
    """The run's RabbitMQ node. Never stop it: `own_rabbitmq` is for that."""
    return shared_node(pytestconfig.stash[RUN_FOLDER], server_binary() or _missing("rabbitmq-server"))


@pytest.fixture
def rabbitmq_url(rabbitmq_node: Node) -> Iterator[str]:
    """The address of an empty virtual host on the run's RabbitMQ node."""
    with rabbitmq_node.vhost() as url:
        yield url


@pytest.fixture
def impatient_rabbitmq_url(tmp_path: Path) -> Iterator[str]:
    """The address of a node of its own, which closes the channel of a consumer that acknowledges nothing for 2 s."""
    binary = server_binary() or _missing("rabbitmq-server")
    (tmp_path / "rabbitmq").mkdir()
    arguments = "-rabbit consumer_timeout 2000 -rabbit channel_tick_interval 1000"
    with run_folder(tmp_path / "rabbitmq") as folder, shared_node(folder, binary, arguments).vhost() as url:
        yield url


@pytest.fixture
def own_rabbitmq(tmp_path: Path) -> Iterator[Node]:
    """A RabbitMQ node of this test alone, with its users' usual virtual host."""
    binary = server_binary() or _missing("rabbitmq-server")
    (tmp_path / "rabbitmq").mkdir()
    with run_folder(tmp_path / "rabbitmq") as folder:
        yield shared_node(folder, binary)


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test alone."""
    with PostgresServer(binaries() or _missing("postgresql")) as server:
        yield server


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a project whose broker is the parameter: RabbitMQ, or Redis, where they say nothing."""
    if request.param == "redis":
        return {}
    # RabbitMQ goes on sending to a worker that stands still until it misses its heartbeat, two minutes by default.
    return {"broker": request.getfixturevalue("rabbitmq_url"), "broker_heartbeat": 2}


def _missing(server: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{server} is not installed, and in CI nothing is skipped")
    pytest.skip(f"{server} is not installed")


@pytest.fixture
def processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    """All processes that the test starts; none survives it, and one that tries fails it."""
    everything = request.node.stash[PROCESSES] = Processes()
    yield everything
    complaints = everything.end()
    if complaints:
        pytest.fail("\n".join(complaints))


@pytest.fixture
def project(tmp_path: Path, processes: Processes, redis_url: str) -> Iterator[Callable[..., Project]]:
    """Write Celery projects: ``project(source, **config)``, see `Project`."""
    with ExitStack() as stack:

        def write(
            source: str = "",
            *,
            name: str = "proj",
            broker: str | None = None,
            store: str | None = None,
            perpetual: bool = True,
            settings: Mapping[str, Any] | None = None,
            **config: Any,
        ) -> Project:
            folder = tmp_path / name
            folder.mkdir()
            written = Project(
                folder,
                source,
                processes=processes,
                redis_url=store or redis_url,
                broker=broker,
                name=name,
                perpetual=perpetual,
                config={**(settings or {}), **config},
            )
            stack.callback(written.close)
            return written

        yield write


@pytest.fixture
def make_app(redis_url: str) -> Iterator[Callable[..., Celery]]:
    """Make Celery apps for use in this process: ``make_app(name="app", **config)``."""
    from celery import Celery
    from kombu import pools

    apps: list[Celery] = []

    def make(name: str = "app", **config: Any) -> Celery:
        app = Celery(name, broker=redis_url, set_as_current=False)
        app.conf.update(config)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()
    # Kombu keeps connections per address, not per app.
    pools.reset()
