"""Private parts of other libraries that are not as known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from celery_perpetual.health.findings import SETUP, WARNING, Finding


class KnownSeam(Protocol):
    """A finding for each seam that is not as known."""

    @property
    def name(self) -> str: ...
    @property
    def without(self) -> str: ...


def unknown(seams: Iterable[tuple[KnownSeam, str]]) -> Iterator[Finding]:
    """A finding for each.

    Args:
        seams: those that are not as known, each with what was seen.
    """
    for seam, evidence in seams:
        yield Finding(
            kind="seam_unknown", area=SETUP, level=WARNING, evidence=f"seam {seam.name!r} is not as known: {evidence}",
            meaning=seam.without, help="use versions that were seen: pip install 'celery>=5.6,<5.8'",
            about={"seam": seam.name},
        )  # fmt: skip
