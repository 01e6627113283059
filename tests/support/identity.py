"""Messages of two processes, compared byte by byte but for ids and our header."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.identity_programs import POLL, SEND
from tests.support.identity_tasks import ORDINARY, PERPETUAL, TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PERPETUAL_HEADER = re.compile(r', "perpetual": 1(?=[,}])|"perpetual": 1, ')
DIGITS = re.compile(r"[0-9]")


class Pair:
    """The two projects of one configuration."""

    def __init__(self, project: Callable[..., Project], source: str = "", **config: Any) -> None:
        self.perpetual = project(PERPETUAL + TASKS + source, name="proj", **config)
        plain = {name: value for name, value in config.items() if not name.startswith("perpetual_")}
        self.ordinary = project(ORDINARY + TASKS + source, name="ordinary", perpetual=False, **plain)
        # App and module are called alike, so that nothing in a message can tell the two apart.
        module = (self.ordinary.folder / "ordinary.py").rename(self.ordinary.folder / "proj.py")
        module.write_text(module.read_text().replace("Celery('ordinary'", "Celery('proj'", 1))

    def differences(self, cases: str = "CASES", forms: str = "all") -> list[str]:
        """Send every case, poll it in the given forms (all, items, own), and say what the broker did not get alike."""
        sent, bound = json.loads(self.ordinary.run_python(SEND.format(cases=cases)))
        self.ordinary.redis.flushall()
        polled, bound_by_us = json.loads(self.perpetual.run_python(POLL.format(cases=cases, forms=forms)))
        assert sent
        assert sent.keys() == polled.keys()
        found = [] if bound == bound_by_us else [f"bindings: {bound} != {bound_by_us}"]
        for name, expected in sent.items():
            assert expected["keys"] or expected["heard"], f"{name}: Celery itself has sent nothing"
            found += [
                f"{name}, {form}: {text}" for form, answer in polled[name].items() if (text := differ(expected, answer))
            ]
        return found


def differ(expected: Any, answer: Any) -> str | None:
    """In what two looks at the broker differ, None if in nothing that must be alike."""
    if isinstance(answer, str):
        return answer
    (one, times), (other, other_times) = everything(expected), everything(answer)
    if one != other:
        return first_difference(one, other)
    return None if other_times == pytest.approx(times, abs=120) else f"times {times} and {other_times} from now"


def everything(answer: dict[str, Any]) -> tuple[list[Any], list[float]]:
    """All that was found in the broker, without what differs from message to message; and times from now."""
    times: list[float] = []
    keys = {
        key: [[normal(text, times) for text in value["messages"]], value["expires"]]
        for key, value in answer["keys"].items()
    }
    return [keys, [[channel, normal(text, times)] for channel, text in answer["heard"]]], times


def normal(text: str, times: list[float]) -> str:
    """A message as it lies in the broker, but for ids, process, thread, our header, and times that count from now."""
    message = json.loads(text)
    headers, properties = message["headers"], message["properties"]
    if "id" not in headers:
        return normal_event(message, times)
    assert properties["correlation_id"] == headers["id"]
    for name, value in (
        ("ID", headers["id"]), ("TAG", properties["delivery_tag"]), ("THREAD", properties["reply_to"]),
        ("ORIGIN", headers["origin"]),
    ):  # fmt: skip
        text = text.replace(json.dumps(value), f'"{name}"')
    for name in ("eta", "expires"):
        text = text.replace(json.dumps(headers[name]), json.dumps(from_now(headers[name], times)))
    if (expiration := properties.get("expiration")) is not None:
        times.append(int(expiration) / 1000)
        text = text.replace(f'"expiration": "{expiration}"', '"expiration": "soon"')
    return PERPETUAL_HEADER.sub("", text)


def from_now(time: str | None, times: list[float]) -> str | None:
    """The notation of a time that counts from now; its distance goes to ``times``. Other times stay as they are."""
    if time is None or time.startswith("2040"):
        return time
    at = datetime.fromisoformat(time)
    times.append((at - datetime.now(at.tzinfo)).total_seconds())
    return DIGITS.sub("0", time)


def normal_event(message: dict[str, Any], times: list[float]) -> str:
    """A task-sent event, but for id, process and time."""
    body = json.loads(b64decode(message.pop("body")))
    for name in ("uuid", "root_id", "pid", "clock", "timestamp", "hostname"):
        body[name] = type(body[name]).__name__
    for name in ("eta", "expires"):
        body[name] = from_now(body[name], times)
    message["properties"]["delivery_tag"] = message["headers"]["hostname"] = ""
    return json.dumps([message, body])


def first_difference(one: Any, other: Any) -> str:
    """Where two looks at the broker part, with some of what is around."""
    texts = [json.dumps(each, ensure_ascii=False) for each in (one, other)]
    at = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    around = [text[max(0, at - 60) : at + 100] for text in texts]
    return f"Celery {around[0]!r}, polled {around[1]!r}"


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Celery's defaults": {},
    "key prefix and priority steps": {
        "broker_transport_options": {
            "global_keyprefix": "{shop}", "priority_steps": [0, 2, 4, 8], "sep": ":", "queue_order_strategy": "priority",
        },
    },
    "other defaults": {
        "task_serializer": "pickle", "task_compression": "zlib", "task_default_queue": "slow",
        "task_default_priority": 5, "task_default_delivery_mode": 1, "timezone": "Asia/Tokyo", "task_ignore_result": True,
        "task_time_limit": 99,
    },
    "local time, sent events and results": {
        "enable_utc": False, "timezone": "America/New_York", "task_inherit_parent_priority": True,
        "task_send_sent_event": True, "result_backend": "", "result_extended": True,
    },
    "store in another database": {"perpetual_store_url": ""},
}  # fmt: skip
