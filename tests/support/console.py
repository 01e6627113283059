"""A Python process of a project that answers questions, as an operator's shell would."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.interpreters import END

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tests.support.projects import Project

# Reads an expression a line, answers one JSON line each. Replies have a descriptor of their own, because tasks and
# logs may print. Ends with its standard input, so it cannot outlive the test.
SERVER = """
import json, os, sys
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import {module}
from {module} import *

def plain(value):
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)

for line in sys.stdin:
    try:
        reply = {{"value": eval(json.loads(line), vars({module}))}}
    except Exception as error:
        reply = {{"error": [type(error).__name__, str(error)]}}
    print(json.dumps(reply, default=plain), file=replies, flush=True)
"""


class Console:
    """``console("perpetual.poll('proj.find')")`` evaluates an expression among the project's names.

    Records come back as the dicts of their ``to_dict()``.
    """

    def __init__(self, project: Project) -> None:
        self._log = (project.folder / "console.log").open("ab")
        self._interpreter = project.interpreter(SERVER.format(module=project.name) + END, err=self._log)
        self.pid = self._interpreter.pid

    def __call__(self, expression: str) -> Any:
        """Return the value of an expression.

        Raises:
            AssertionError: It raised.
        """
        self.send(expression)
        return self.answer()

    def error(self, expression: str) -> str:
        """Return ``Type: text`` of what an expression raises."""
        self.send(expression)
        reply = self._reply()
        assert "error" in reply, f"{expression} did not raise, but returned {reply['value']!r}"
        return ": ".join(reply["error"])

    def send(self, expression: str) -> None:
        """Ask, and do not wait for the answer."""
        self._interpreter.say(json.dumps(expression))

    def answer(self) -> Any:
        """Wait for the next answer."""
        reply = self._reply()
        assert "error" not in reply, ": ".join(reply["error"])
        return reply["value"]

    def kill9(self) -> None:
        """SIGKILL, in whatever it does."""
        self._interpreter.kill9()

    def _reply(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._interpreter.hear())
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A hanging next_batch runs on a daemon thread: the end of the input ends the process all the same.
        try:
            self._interpreter.end(timeout=10)
        finally:
            self._log.close()
