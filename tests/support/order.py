"""In which order the tests of a run begin, so that no test process waits for another one at the end.

xdist cuts the list of tests into one part for each test process. A process that has done its part takes half of what
another one has not begun, from its end. So each part begins with the tests that wait for processes, and ends with quick
ones. The last part has quick ones only: they compute while the others wait.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Marks of tests that take their time, longest first.
SLOW = ("long", "slow")
#: Fixtures of tests that start processes.
SLOW_FIXTURES = {"processes", "private_redis", "module_shop", "postgres", "rabbitmq_url"}


def from_another_file(
    found: list[pytest.Item | pytest.Collector], process: Mapping[str, Any] | None
) -> list[pytest.Item | pytest.Collector]:
    """Return a folder's files in the order in which a test process of xdist reads them, and then its folders."""
    files = [each for each in found if isinstance(each, pytest.Module)]
    begin = len(files) * int(process["workerid"].removeprefix("gw")) // process["workercount"] if process else 0
    return [*files[begin:], *files[:begin], *(each for each in found if each not in files)]


def in_parts(items: list[pytest.Item], count: int) -> list[pytest.Item]:
    """Return the tests in the order of a run with so many test processes. Tests of one file stay near."""
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    slow = sorted((tests for tests in files if _weight(tests)), key=_weight, reverse=True)
    parts: list[list[pytest.Item]] = [[] for _ in range(count)]
    for tests in slow:
        min(parts[:-1] or parts, key=_weight).extend(tests)
    quick = iter([item for tests in files if not _weight(tests) for item in tests])
    ordered: list[pytest.Item] = []
    for number, part in enumerate(parts):
        part.sort(key=lambda item: (*(item.get_closest_marker(name) is None for name in SLOW), not _weight([item])))
        # As xdist cuts.
        size = (len(items) - len(ordered)) // (count - number)
        ordered += [*part, *islice(quick, max(0, size - len(part)))]
    return ordered


def _weight(tests: list[pytest.Item]) -> int:
    return sum(not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) for item in tests)
