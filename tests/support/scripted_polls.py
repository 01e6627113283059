"""A perpetual task that finds what a test says, polled by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.console import Console

if TYPE_CHECKING:
    from tests.support import Project

# A perpetual task whose next_batch is the expression in a file: the test says what the next poll finds.
SCRIPTED_POLLS = """
def scripted(poll):
    with open("says") as file:
        text = file.read()
    return eval(text, globals(), {"poll": poll})

def fail(error):
    raise error

@app.task(base=PerpetualTask, poll_every=3600, next_batch=scripted, max_in_flight=5, poll_timeout=20)
def work(number=None, **names):
    pass

@app.task
def other(text):
    pass
"""

UNIT = "perpetual:proj.work"


class ScriptedPolls:
    """A project whose ``proj.work`` finds what it is told, polled by hand."""

    def __init__(self, proj: Project, console: Console) -> None:
        self.proj, self.console = proj, console

    def poll(self, says: str) -> dict[str, Any]:
        """Let the next poll evaluate ``says``; return its outcome."""
        self.proj.write("says", says)
        outcome: dict[str, Any] = self.console("perpetual.poll('proj.work')")
        return outcome

    def newest(self) -> dict[str, Any]:
        """The newest stored outcome."""
        return dict(self.console("perpetual.polls(work)")[0])


def numbers(outcome: dict[str, Any]) -> tuple[str, int, int, int]:
    """How a poll ended and what it counted."""
    return outcome["status"], outcome["count"], outcome["duplicates"], outcome["left_out"]
