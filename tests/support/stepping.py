"""A server whose clock steps, while the clocks of all other processes go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from celery_perpetual.embedded import EmbeddedServer, packaged_binary
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

#: Where distributions keep the library that comes between a program and its clock.
PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def library() -> Path | None:
    """Return the path of libfaketime, None if it is not installed."""
    return next((file for place in PLACES for file in Path("/").glob(place.removeprefix("/"))), None)


class SteppingServer:
    """An `EmbeddedServer` under libfaketime. Its time-outs go by the monotonic clock, as on a real machine."""

    def __init__(self, folder: Path, faketime: Path) -> None:
        self._offset = folder / "offset"
        self._write(0)
        wrapper = folder / "server"
        wrapper.write_text(
            f"#!/bin/sh\nexport LD_PRELOAD={faketime} FAKETIME_TIMESTAMP_FILE={self._offset} FAKETIME_NO_CACHE=1 "
            f'FAKETIME_DONT_FAKE_MONOTONIC=1\nexec {packaged_binary()} "$@"\n'
        )
        wrapper.chmod(0o755)
        self._server = EmbeddedServer(binary=str(wrapper))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return self._server.url

    def step(self, seconds: int) -> None:
        """Set the clock so many seconds ahead of the machine's, or behind it."""
        self._write(seconds)
        with redis.Redis.from_url(self.url) as client:
            wait_until(lambda: abs(client.time()[0] - time.time() - seconds) < 5, "the server's clock has stepped")

    def _write(self, seconds: int) -> None:
        written = self._offset.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n")
        written.rename(self._offset)  # in one step: it is read all the time
