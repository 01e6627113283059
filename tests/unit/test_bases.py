"""Which class stands between our scheduler and the base scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.beat import PersistentScheduler, Scheduler
from redbeat import RedBeatScheduler

from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.bases.celerys import CelerysBase
from celery_perpetual.beat.bases.choice import over
from celery_perpetual.beat.bases.redbeat import RedBeatBase
from celery_perpetual.beat.perpetual_redbeat import PerpetualRedBeatScheduler
from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.beat.scheduler_setting import other_scheduler
from celery_perpetual.errors import SettingsError
from celery_perpetual.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class OwnFile(PersistentScheduler):
    pass


class OwnRedBeat(RedBeatScheduler):  # type: ignore[misc]
    pass


class Unknown(Scheduler):
    pass


class Assembled(PerpetualScheduler, PersistentScheduler):
    pass


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("bases", broker="redis://127.0.0.1:1/0", set_as_current=False)
    yield app
    app.close()


@pytest.mark.parametrize(
    ("scheduler", "configured", "kind", "base"),
    [
        (PerpetualScheduler, PersistentScheduler, CelerysBase, PersistentScheduler),
        (PerpetualScheduler, Scheduler, CelerysBase, Scheduler),
        (PerpetualScheduler, OwnFile, CelerysBase, OwnFile),
        (PerpetualScheduler, Unknown, Base, Unknown),
        (PerpetualScheduler, RedBeatScheduler, RedBeatBase, RedBeatScheduler),
        (PerpetualScheduler, OwnRedBeat, RedBeatBase, OwnRedBeat),
        # The class chosen by -S counts, unless the setting names something of its kind.
        (PerpetualRedBeatScheduler, PersistentScheduler, RedBeatBase, RedBeatScheduler),
        (PerpetualRedBeatScheduler, OwnRedBeat, RedBeatBase, OwnRedBeat),
        (Assembled, OwnFile, CelerysBase, OwnFile),
        (Assembled, RedBeatScheduler, CelerysBase, PersistentScheduler),
    ],
    ids=lambda each: each.__name__,
)
def test_a_base_has_the_class_of_its_kind(scheduler: Any, configured: Any, kind: Any, base: Any) -> None:
    """Ours comes first, then the class of the base's kind, then the base."""
    order = over(scheduler, configured).__mro__

    assert order.index(scheduler) < order.index(kind) < order.index(base)
    assert [cls for cls in order if cls in {CelerysBase, RedBeatBase}] == ([kind] if kind is not Base else [])


def test_the_setting_takes_a_name_of_the_entry_points(app: Celery) -> None:
    """As ``celery beat -S`` does; a scheduler of ours is none to stand behind ours."""
    app.conf.perpetual_base_scheduler = "redbeat.RedBeatScheduler"
    assert Settings.from_app(app).base is RedBeatScheduler
    app.conf.perpetual_base_scheduler = "perpetual_redbeat"
    with pytest.raises(SettingsError, match="set beat_scheduler = 'perpetual_redbeat' instead"):
        Settings.from_app(app)


@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        ("redbeat.RedBeatScheduler", "celery_perpetual.beat.perpetual_redbeat:PerpetualRedBeatScheduler"),
        ("celery.beat:Scheduler", "perpetual"),
        ("no.such:Scheduler", "perpetual"),
    ],
)
def test_a_warning_names_which_of_ours_takes_the_place_of_another(app: Celery, scheduler: str, wanted: str) -> None:
    """A warning that says what to write."""
    app.conf.beat_scheduler = scheduler
    warning = other_scheduler(app, PerpetualScheduler)
    assert warning is not None
    assert str(warning).endswith(f"set beat_scheduler = {wanted!r}")
    app.conf.beat_scheduler = "perpetual_redbeat"
    assert other_scheduler(app, PerpetualScheduler) is None
