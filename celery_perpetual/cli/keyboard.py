"""Single keys from a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

#: Names of the keys without a letter, by the bytes that terminals send for them.
NAMES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
    b" ": "page down", b"j": "down", b"k": "up", b"\x1b[H": "home", b"\x1b[F": "end",
    b"\x1b[1~": "home", b"\x1b[4~": "end", b"g": "home", b"\x03": "q",
}  # fmt: skip


class Keys:
    """The keys that are pressed; none where the input is no terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> list[str]:
        """The keys that were pressed by then; returns with the first one."""
        if self._descriptor is None:
            select.select([], [], [], seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        pressed = os.read(self._descriptor, 64)
        if not pressed:
            return ["q"]  # the terminal is gone
        if pressed in NAMES:
            return [NAMES[pressed]]
        return [NAMES.get(bytes([byte]), chr(byte)) for byte in pressed] if pressed[:1] != b"\x1b" else []


@contextmanager
def keys() -> Iterator[Keys]:
    """Read keys one by one, without showing them; the terminal is restored at the end."""
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
