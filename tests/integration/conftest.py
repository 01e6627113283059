"""Fixtures of the tests of one part against real processes and servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.store.connection import Store
from tests.support.console import Console
from tests.support.held_tasks import held_tasks
from tests.support.identity import CONFIGURATIONS, Pair
from tests.support.scripted_polls import SCRIPTED_POLLS, ScriptedPolls
from tests.support.watched_app import WatchedApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

    from tests.support import Project
    from tests.support.held_tasks import HeldTasks


@pytest.fixture(scope="module")
def module_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldTasks]:
    """A server and a worker that the tests of a module share."""
    with held_tasks(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def shop(module_shop: HeldTasks) -> Iterator[HeldTasks]:
    """The module's server and worker, with an app for this test."""
    module_shop.connect()
    yield module_shop
    module_shop.disconnect()


@pytest.fixture
def console(proj: Project) -> Iterator[Console]:
    """A shell of the project that the module's own fixture ``proj`` has written."""
    with Console(proj) as console:
        yield console


@pytest.fixture
def polls(project: Callable[..., Project]) -> Iterator[ScriptedPolls]:
    """A console on a project that finds what it is given."""
    proj = project(SCRIPTED_POLLS)
    with Console(proj) as console:
        yield ScriptedPolls(proj, console)


@pytest.fixture
def pair(project: Callable[..., Project], redis_url: str) -> Callable[..., Pair]:
    """Make both projects of one configuration; an empty URL is completed."""
    urls = {"result_backend": redis_url, "perpetual_store_url": redis_url.removesuffix("/0") + "/1"}

    def make(name: str = "Celery's defaults", source: str = "", **more: Any) -> Pair:
        config = {**CONFIGURATIONS[name], **more}
        return Pair(project, source, **{key: urls[key] if value == "" else value for key, value in config.items()})

    return make


@pytest.fixture
def watched_app(
    make_app: Callable[..., Celery], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., WatchedApp]]:
    """Make apps that are watched; arguments are settings."""
    stores: list[Store] = []
    usual = Store.__init__

    def note(store: Store, *args: Any, **more: Any) -> None:
        usual(store, *args, **more)
        stores.append(store)

    def make(**config: Any) -> WatchedApp:
        return WatchedApp(make_app(**config), store_redis, monkeypatch)

    monkeypatch.setattr(Store, "__init__", note)
    yield make
    for store in stores:  # the parts of an app that belong to a worker have connections of their own
        store.close()


@pytest.fixture
def listening() -> Iterator[Callable[[Any, Callable[..., None]], None]]:
    """Connect receivers of signals for one test."""
    connected: list[tuple[Any, Callable[..., None]]] = []

    def connect(signal: Any, receiver: Callable[..., None]) -> None:
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)
