"""``perpetual_*`` settings of failures and preflights: each one changes something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_perpetual import Perpetual, SettingsError
from celery_perpetual.settings import Settings
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable


class Asked(Exception):
    """An error whose class and wait are reported."""

    wait_hint = 7200


def asked(error: BaseException) -> str | None:
    """Classify as a project does."""
    return "quota" if "quota" in str(error) else None


@pytest.mark.parametrize(
    ("error", "settings", "expected"),
    [
        (ValueError("quota"), {}, "degraded"),
        (ValueError("quota"), {"perpetual_classifiers": [asked]}, "quota"),
        (ValueError("else"), {"perpetual_classifiers": [asked]}, "degraded"),
    ],
)
def test_setting_classifiers(
    shop: Callable[..., Perpetual], error: Exception, settings: dict[str, Any], expected: str
) -> None:
    """Functions of the project answer the class of an error that no library is known by."""

    def fail() -> None:
        raise error

    assert shop(fail, settings).poll("deliver").error_class == expected


def test_setting_error_policies(shop: Callable[..., Perpetual]) -> None:
    """Waits and budgets by class: with a budget of one try the second failure pauses the unit."""

    def fail() -> None:
        raise ConnectionError

    perpetual = shop(fail, {"perpetual_error_policies": {"node": (1, 60, 1)}})
    assert perpetual.runner.policies.after(ConnectionError(), {}).delay_ms <= 1000
    assert [perpetual.poll("deliver") and perpetual.units()[0].state for _ in range(2)] == ["active", "paused"]


def test_setting_max_wait_hint(shop: Callable[..., Perpetual]) -> None:
    """For no longer does it count when the other side asks to wait."""
    assert shop(list).runner.policies.after(Asked(), {}).delay_ms == 3_600_000
    assert shop(list, {"perpetual_max_wait_hint": 60}).runner.policies.after(Asked(), {}).delay_ms == 60_000


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("error_policies", {"nodes": (1, 2)}, "no error is of the class 'nodes' .* did you mean node"),
        ("error_policies", {"node": 3}, "'node' must be .first, longest. or .first, longest, attempts., got 3"),
        ("error_policies", {"node": (0, 3)}, "'node': the first wait must be at least 0.001 seconds, got 0"),
        ("error_policies", {"node": (5, 3)}, "'node': the longest wait must be at least 5 seconds, got 3"),
        ("error_policies", {"node": (1, 3, 0)}, "'node': attempts must be a whole number of at least 1, got 0"),
        ("error_policies", [1], "must be a dict of class to .first, longest., got .1."),
        ("classifiers", ["no.such.module"], "'no.such.module' cannot be imported"),
        ("classifiers", 5, "must be a list of functions or of their names .module.function., got 5"),
        ("classifiers", ["celery.__version__"], "must be a function of the error"),
    ],
)
def test_wrong_settings_of_errors_are_refused(name: str, value: Any, message: str) -> None:
    """With the setting, what was seen, and the right word."""
    app = Celery("shop", set_as_current=False)
    app.conf[f"perpetual_{name}"] = value

    with pytest.raises(SettingsError, match=f"^setting perpetual_{name}.*{message}"):
        Settings.from_app(app)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_setting_preflight_ttl(shop: Callable[..., Perpetual]) -> None:
    """For so long a preflight that has passed counts."""
    perpetual = shop(lambda poll: [], {"perpetual_preflight_ttl": 77}, preflight=lambda: None)
    clock = LeadingClock(perpetual)
    clock.until_polled("deliver")
    clock.close()
    assert 70_000 < perpetual.store.redis.pttl(perpetual.store.keys.preflight("preflight:deliver")) <= 77_000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fatal", [False, True])
def test_setting_preflight_fatal(shop: Callable[..., Perpetual], fatal: bool) -> None:
    """True: there is a reason for beat to end when a preflight raises what no next try mends."""

    def fail() -> None:
        raise KeyError("token")

    perpetual = shop(lambda poll: [], {"perpetual_preflight_fatal": fatal}, preflight=fail)
    clock = LeadingClock(perpetual)
    clock.until_polled("deliver")
    clock.close()
    assert bool(perpetual.runner.preflights.fatal_reason) is fatal
