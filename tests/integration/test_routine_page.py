"""The programs of docs/routines.md are run as they stand, in their order."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PAGE = (Path(__file__).parents[2] / "docs" / "routines.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

BEFORE = """
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
"""

# A program that prints what the reader may see afterwards; the last line is JSON.
AFTER = """
sign_up(9)
sign_up(9)
try:
    with transaction.atomic():
        sign_up(10)
        raise ZeroDivisionError
except ZeroDivisionError:
    pass

import json
get, routines = perpetual.routines.get, perpetual.routines
weekly = [each.to_dict() for each in routines.list() if each.idempotency_key and each.idempotency_key.startswith("weekly")]
print(json.dumps({
    "first": get(routine.id).to_dict(), "reminder": get(reminder.id).to_dict(), "weekdays": get("weekdays-8").to_dict(),
    "free": [each.to_dict() for each in free], "digests": [get(f"digest-{n}").to_dict() for n in range(0, 1000, 50)],
    "weekly": weekly, "tomorrow": tomorrow.isoformat(), "at": at.isoformat(), "soon": len(due_soon),
}))
"""


def test_the_programs_of_the_page_do_what_it_says(project: Callable[..., Project]) -> None:
    """Reminder, one per user, crontab with a zone, from a request, without a beat, changes and lists."""
    shop = project()
    programs = "".join(PROGRAMS).replace("redis://localhost:6379/0", shop.url)
    shop.write("page.py", BEFORE + programs.replace('"proj.', '"page.') + AFTER)

    *printed, last = shop.run_python("import page").splitlines()

    facts = json.loads(last)
    first, tomorrow = facts["first"], datetime.fromisoformat(facts["tomorrow"])
    assert any(line.startswith(f"report of 7 for {first['created_at'][:10]}") for line in printed)
    assert any(line.startswith(first["id"]) and line.endswith(" success") for line in printed)
    assert (first["last_result"], first["retries"]["max_attempts"], first["run_count"]) == ("sent", 5, 1)
    assert first["next_run_at"] == (read(first["created_at"]) + timedelta(hours=6)).isoformat(
        timespec="milliseconds"
    ).replace("+00:00", "Z")
    assert timedelta(0) <= tomorrow - read(facts["reminder"]["next_run_at"]) < timedelta(milliseconds=1)
    assert len(facts["free"]) == 50
    assert {each["metadata"]["plan"] for each in facts["free"]} == {"free"}
    assert facts["soon"] >= 2
    assert read(facts["at"]) < tomorrow
    spread = [read(each["next_run_at"]) - datetime(2030, 1, 1, 6, tzinfo=timezone.utc) for each in facts["digests"]]
    assert len(set(spread)) == 20
    assert all(timedelta(0) <= each < timedelta(hours=1) for each in spread)
    weekdays = facts["weekdays"]
    assert (weekdays["state"], weekdays["schedule"]["schedule"]) == ("cancelled", "crontab 0 10 * * * (Europe/Berlin)")
    assert [each["kwargs"] for each in facts["weekly"]] == [{"user": 9}]
    assert shop.redis.llen("celery") == 1  # run now


def read(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
