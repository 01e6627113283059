"""The ``perpetual_*`` settings: what is read, what is refused, and with which words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_perpetual.errors import PerpetualError, SettingsError
from celery_perpetual.settings import Settings


def read(**config: Any) -> Settings:
    """Read the settings of an app that is configured in the plain way."""
    app = Celery("app", set_as_current=False)
    app.conf.update(config)
    return Settings.from_app(app)


def read_from(module: object, namespace: str | None) -> Settings:
    """Read the settings of an app that is configured from an object, as Django projects do."""
    app = Celery("app", set_as_current=False)
    app.config_from_object(module, namespace=namespace)
    return Settings.from_app(app)


def test_nothing_set_means_the_documented_defaults() -> None:
    """An app without any of our settings gets the defaults of the settings table."""
    settings = read()

    assert settings == Settings(
        store_url=None,
        key_prefix="perpetual",
        base_scheduler="celery.beat:PersistentScheduler",
        leader_ttl=15.0,
        cycle_interval=5.0,
        poll_threads=8,
        max_abandoned_polls=16,
        events_maxlen=100_000,
        store_timeout=5.0,
        store_wait=30.0,
        disabled=(),
    )


def test_none_means_the_default() -> None:
    """A setting that is explicitly None is as good as not set."""
    assert read(perpetual_leader_ttl=None, perpetual_disabled=None) == Settings()


def test_every_setting_can_be_set() -> None:
    """Values that are given are the values that are used, durations as seconds."""
    settings = read(
        perpetual_store_url="redis://elsewhere/1",
        perpetual_key_prefix="shop",
        perpetual_base_scheduler="celery.beat:Scheduler",
        perpetual_leader_ttl=timedelta(seconds=20),
        perpetual_cycle_interval=1,
        perpetual_poll_threads=2,
        perpetual_max_abandoned_polls=3,
        perpetual_events_maxlen=500,
        perpetual_store_timeout=0.5,
        perpetual_store_wait=timedelta(minutes=1),
        perpetual_disabled=["shop.deliver"],
    )

    assert settings == Settings(
        store_url="redis://elsewhere/1",
        key_prefix="shop",
        base_scheduler="celery.beat:Scheduler",
        leader_ttl=20.0,
        cycle_interval=1.0,
        poll_threads=2,
        max_abandoned_polls=3,
        events_maxlen=500,
        store_timeout=0.5,
        store_wait=60.0,
        disabled=("shop.deliver",),
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("perpetual_leader_tll", "perpetual_leader_ttl"),
        ("perpetual_poll_thread", "perpetual_poll_threads"),
        ("perpetual_prefix", "perpetual_key_prefix"),
        ("perpetual_store_uri", "perpetual_store_url"),
        ("perpetual_event_maxlen", "perpetual_events_maxlen"),
        ("perpetual_leese_ttl", "perpetual_lease_ttl"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(written: str, meant: str) -> None:
    """A typing error is answered with what was probably meant, also among names of later releases."""
    with pytest.raises(SettingsError, match=rf"^unknown setting {written}, did you mean {meant}\?$"):
        read(**{written: 1})


@pytest.mark.parametrize("name", ["max_in_flight", "poll_timeout", "dedup_window", "enabled"])
def test_what_belongs_to_a_task_is_no_setting(name: str) -> None:
    """No setting of another meaning is suggested for it."""
    with pytest.raises(SettingsError, match=rf"^unknown setting perpetual_{name}: {name} belongs to a task, as an"):
        read(**{f"perpetual_{name}": 1})


def test_a_name_without_a_near_one_is_refused_with_the_list() -> None:
    """A name like nothing that we know is answered with all that we know."""
    with pytest.raises(
        SettingsError, match=r"unknown setting perpetual_zzzz; known are perpetual_store_url, .*"
    ) as seen:
        read(perpetual_zzzz=1)

    assert "perpetual_disabled" in str(seen.value)


IMPOSSIBLE = [
    ("leader_ttl", 2, "must be at least 3 seconds, got 2"),
    ("leader_ttl", -15, "must be at least 3 seconds, got -15"),
    ("leader_ttl", "15", "must be seconds (a number or a timedelta), got '15'"),
    ("leader_ttl", True, "must be seconds (a number or a timedelta), got True"),
    ("leader_ttl", float("nan"), "must be seconds (a number or a timedelta), got nan"),
    ("leader_ttl", float("inf"), "must be seconds (a number or a timedelta), got inf"),
    ("cycle_interval", 0, "must be at least 0.05 seconds, got 0"),
    ("cycle_interval", timedelta(0), "must be at least 0.05 seconds, got 0"),
    ("store_timeout", [], "must be seconds (a number or a timedelta), got []"),
    ("store_wait", -1, "must be at least 0.05 seconds, got -1"),
    ("poll_threads", 0, "must be a whole number of at least 1, got 0"),
    ("poll_threads", 1.5, "must be a whole number of at least 1, got 1.5"),
    ("poll_threads", "8", "must be a whole number of at least 1, got '8'"),
    ("poll_threads", True, "must be a whole number of at least 1, got True"),
    ("max_abandoned_polls", -1, "must be a whole number of at least 1, got -1"),
    ("events_maxlen", 0, "must be a whole number of at least 1, got 0"),
    ("key_prefix", "", "must be a non-empty string, got ''"),
    ("key_prefix", "  ", "must be a non-empty string, got '  '"),
    ("key_prefix", 7, "must be a non-empty string, got 7"),
    ("store_url", 6379, "must be a non-empty string, got 6379"),
    ("base_scheduler", object, "must be a non-empty string, got <class 'object'>"),
    ("disabled", "shop.deliver", "must be a list of task names, got 'shop.deliver'"),
    ("disabled", {"shop.deliver": True}, "must be a list of task names, got {'shop.deliver': True}"),
    ("disabled", 5, "must be a list of task names, got 5"),
    ("disabled", b"shop.deliver", "must be a list of task names, got b'shop.deliver'"),
    ("disabled", ["shop.deliver", 3], "must be a list of task names, got 3 in it"),
]


@pytest.mark.parametrize(("name", "value", "says"), IMPOSSIBLE)
def test_an_impossible_value_is_refused(name: str, value: Any, says: str) -> None:
    """A value that cannot work is refused with the setting's name, what is wrong and what was seen."""
    with pytest.raises(SettingsError) as seen:
        read(**{f"perpetual_{name}": value})

    assert str(seen.value) == f"setting perpetual_{name} {says}"


@pytest.mark.parametrize("huge", [10**400, -(10**400)], ids=["positive", "negative"])
def test_a_number_beyond_all_floats_is_an_impossible_value_too(huge: int) -> None:
    """A whole number that no float can hold is refused in our own words, not by an arithmetic error."""
    with pytest.raises(SettingsError, match=r"^setting perpetual_store_wait must be"):
        read(perpetual_store_wait=huge)


@pytest.mark.parametrize(
    "scheduler", ["nowhere.at_all:Scheduler", "celery.beat:NoSuchScheduler", "celery.beat:Service"]
)
def test_a_base_scheduler_that_is_none_is_refused(scheduler: str) -> None:
    """A base scheduler that cannot be imported, or is no scheduler, is a wrong setting and named as such."""
    from celery_perpetual import PerpetualScheduler

    app = Celery("app", broker="redis://", set_as_current=False)
    app.conf.perpetual_base_scheduler = scheduler

    with pytest.raises(SettingsError, match=rf"perpetual_base_scheduler.*{scheduler}"):
        PerpetualScheduler(app, lazy=True)


def test_refusals_are_ours_and_ordinary_errors_too() -> None:
    """A refused setting can be caught as `PerpetualError` and as `ValueError`."""
    assert issubclass(SettingsError, PerpetualError)
    assert issubclass(SettingsError, ValueError)


def test_a_heartbeat_may_be_missed() -> None:
    """A worker that misses one report must not be taken for dead."""
    assert read(perpetual_lease_ttl=8).heartbeat == 2
    with pytest.raises(
        SettingsError, match=r"^setting perpetual_heartbeat_interval must be at most a third .*8 s.*3 s"
    ):
        read(perpetual_lease_ttl=8, perpetual_heartbeat_interval=3)


class DjangoSettings:
    """A module as Django's settings are one."""

    CELERY_BROKER_URL = "redis://"
    CELERY_PERPETUAL_LEADER_TTL = 7
    CELERY_PERPETUAL_DISABLED = ("shop.deliver",)
    # Somebody else's: a shop that sells perpetual calendars.
    PERPETUAL_CALENDARS = ["Patek"]
    PERPETUAL_LEADER_TTL = 99


def test_django_style_names_are_read() -> None:
    """With a namespace the settings are ``CELERY_PERPETUAL_*``."""
    settings = read_from(DjangoSettings, "CELERY")

    assert settings.leader_ttl == 7
    assert settings.disabled == ("shop.deliver",)


def test_unrelated_names_in_a_namespaced_module_are_left_alone() -> None:
    """Without the namespace ``PERPETUAL_X`` is another program's setting: neither refused nor used."""
    assert read_from(DjangoSettings, "CELERY") == Settings(leader_ttl=7.0, disabled=("shop.deliver",))


@pytest.mark.parametrize("namespace", ["CELERY", "celery", "QUEUE"])
def test_the_namespace_may_be_any(namespace: str) -> None:
    """Our names follow the project's namespace, whichever it is."""
    module = type("Module", (), {f"{namespace.upper()}_PERPETUAL_KEY_PREFIX": "shop"})

    assert read_from(module, namespace.upper()).key_prefix == "shop"


def test_an_unknown_django_style_name_is_refused() -> None:
    """A typing error in a namespaced module is seen as well."""
    module = type("Module", (), {"CELERY_PERPETUAL_LEADR_TTL": 7})

    with pytest.raises(
        SettingsError, match=r"unknown setting perpetual_leadr_ttl, did you mean perpetual_leader_ttl\?"
    ):
        read_from(module, "CELERY")


def test_lower_case_modules_are_read() -> None:
    """Without a namespace the names are Celery's own lower-case ones."""
    module = type("Module", (), {"perpetual_leader_ttl": 9, "perpetual_key_prefix": "shop"})

    assert read_from(module, None) == Settings(leader_ttl=9.0, key_prefix="shop")
