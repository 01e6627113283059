"""The `celery` command of a project, without the second that each start of it takes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.interpreters import END

if TYPE_CHECKING:
    from tests.support.projects import Project

# Reads a command line and its input a line, answers one JSON line each. The command runs in a fork that leaves the
# loop, with files for its input and output, and ends as a process of its own does. Ends with its standard input.
SERVER = """
import json, os, sys, tempfile
import celery.__main__
import celery.bin.celery
import {module}
replies = os.fdopen(os.dup(1), "w")

for line in sys.stdin:
    arguments, text = json.loads(line)
    files = [tempfile.TemporaryFile() for _ in range(3)]
    files[0].write(text.encode())
    files[0].seek(0)
    child = os.fork()
    if not child:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, closefd=False)
        sys.argv = ["celery", "-A", {module!r}, *arguments]
        break
    _, status = os.waitpid(child, 0)
    for file in files:
        file.seek(0)
    output = [file.read().decode() for file in files[1:]]
    print(json.dumps([os.waitstatus_to_exitcode(status), *output]), file=replies, flush=True)
else:
    {end}
celery.__main__.main()
"""


class Commands:
    """A process that has imported a project, and forks for each command."""

    def __init__(self, project: Project) -> None:
        self._interpreter = project.interpreter(SERVER.format(module=project.name, end=END.strip().replace("\n", "; ")))

    def run(self, args: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        self._interpreter.say(json.dumps([args, stdin]))
        code, out, err = json.loads(self._interpreter.hear())
        return subprocess.CompletedProcess(args, code, out, err)

    def close(self) -> None:
        """End."""
        self._interpreter.end()
