"""Mistakes of the first hour: an object without an app, an object with two apps, a class that is no task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task

from celery_perpetual import ContractError, Perpetual, PerpetualTask
from celery_perpetual.settings import Settings
from celery_perpetual.tasks.unregistered import unregistered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORK = {"poll_every": 5, "next_batch": lambda _self: []}


def nothing() -> None: ...


@pytest.fixture
def make() -> Iterator[Callable[[str], Celery]]:
    apps = []

    def made(name: str) -> Celery:
        # No server answers here; a call that connects fails.
        apps.append(Celery(name, broker="redis://127.0.0.1:1/0", set_as_current=False))
        return apps[-1]

    yield made
    for app in apps:
        app.close()


def test_an_object_without_an_app_says_what_is_missing() -> None:
    """Operations and settings alike."""
    with pytest.raises(ContractError, match=r"no app yet: call its init_app\(app\) first"):
        Perpetual().units()
    with pytest.raises(ContractError, match=r"init_app\(app\)"):
        _ = Perpetual().settings


def test_only_an_app_is_wired_and_only_one_by_an_object(make: Callable[[str], Celery]) -> None:
    """The refusal names what was given; the first app stays."""
    not_an_app: Any = "proj"
    with pytest.raises(ContractError, match="takes a Celery app, got 'proj'"):
        Perpetual(not_an_app)
    shop, bank = make("shop"), make("bank")
    perpetual = Perpetual(shop)
    assert perpetual.init_app(shop) is perpetual
    with pytest.raises(ContractError, match="has the app 'shop' already; make another for 'bank'"):
        perpetual.init_app(bank)

    assert perpetual.app is shop
    assert getattr(bank, "perpetual", None) is None


def test_a_second_object_of_an_app_has_the_preflights_of_the_first(make: Callable[[str], Celery]) -> None:
    """Whichever of the two decorates: ``app.perpetual``, the second, is what polls."""
    shop = make("shop")
    first, second = Perpetual(shop), Perpetual(shop)

    first.preflight(lambda: None, name="database")
    second.preflight(lambda: None, name="mail")

    assert set(shop.perpetual.common_preflights) == {"database", "mail"}  # type: ignore[attr-defined]


def test_perpetual_disabled_takes_tasks_and_names(make: Callable[[str], Celery]) -> None:
    """A task stands for its name."""
    shop = make("shop")
    shop.conf.perpetual_disabled = [shop.task(name="shop.ship", shared=False)(nothing), "shop.pack"]

    assert Settings.from_app(shop).disabled == ("shop.ship", "shop.pack")


def test_a_class_that_is_no_task_is_named(make: Callable[[str], Celery], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is registered is not, nor a base of tasks, one that is abstract, and one that is no longer in its module."""

    def held(called: str, base: Any = PerpetualTask, **attributes: Any) -> Any:
        made = type(called, (base,), {"__module__": __name__, "run": lambda _self: None, **WORK, **attributes})
        monkeypatch.setitem(globals(), called, made)
        return made

    shop = make("shop")
    shop.loader.task_modules.add(__name__)
    held("Forgotten")
    held("Plain", base=Task)
    held("Half", next_batch=None)
    held("Base", abstract=True)
    held("NoBody", run=Task.run)
    registered = held("Registered", name="shop.registered")
    based = held("Based")
    gone = held("Gone")
    monkeypatch.delitem(globals(), "Gone")

    shop.register_task(registered())
    shop.task(base=based, name="shop.based", shared=False)(nothing)
    shop.finalize()

    assert unregistered(shop) == [f"{__name__}.Forgotten", f"{__name__}.Plain"]
    assert gone.name is None
