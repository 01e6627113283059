"""One call on a thread of its own: code that may hang, such as the user's, is waited for as long as a caller wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CallApart(Generic[T]):
    """A call that runs. A caller may leave it: its thread does not keep the process alive."""

    def __init__(self, call: Callable[[], T], name: str, ended: Callable[[], object] = lambda: None) -> None:
        """Begin it.

        Args:
            call: the function.
            name: of the thread.
            ended: called on that thread when the call is over.
        """
        self.begun = time.monotonic()
        self.error: BaseException | None = None
        """The exception that it has raised."""
        self._answers: list[T] = []
        self._call = call
        self._ended = ended
        self._over = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun

    def is_over(self, seconds: float = 0.0) -> bool:
        """Wait at most so many seconds for its end; whether it has ended."""
        return self._over.wait(seconds)

    def answer(self) -> T:
        """Wait for its end.

        Returns:
            What the call has returned.

        Raises:
            BaseException: what the call has raised.
        """
        self._over.wait()
        if self.error is not None:
            raise self.error
        return self._answers[0]

    def _run(self) -> None:
        try:
            self._answers.append(self._call())
        except BaseException as error:  # whatever it is, the caller gets it
            self.error = error
        self._over.set()
        self._ended()
