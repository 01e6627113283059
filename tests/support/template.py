"""The process from which those of the tests are forked: it has imported Celery, and mostly the package, and run nothing.

A Python process of a project spends most of its start, more than a second of computing, on imports. A fork of this one
has them already, and is a process like any other: it has a pid, a session and a process group of its own, its own
input and output, working folder, arguments, environment and exit code, and ends as an interpreter ends.

As a program it takes the number of a socket and the name of what it imports. It reads a request per datagram, ``{"argv", "folder", "env"}`` with the
files for standard input, output and errors, and answers ``[number, pid, null]``; at the end of a child it writes
``[number, pid, exit code]``. The number counts the children, as the system gives a pid to a later process again.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
import types
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

#: Modules that a beat, a worker or a command of any project imports.
CELERYS = (
    "celery.apps.beat", "celery.apps.worker", "celery.backends.redis", "celery.concurrency.prefork",
    "celery.concurrency.solo", "celery.concurrency.thread", "celery.fixups.django", "celery.worker.components",
    "celery.worker.consumer", "click_didyoumean", "click_plugins", "kombu.transport.pyamqp", "kombu.transport.redis",
)  # fmt: skip
#: Modules that one of a project of ours imports besides. Celery's command imports the package's.
OURS = (
    "celery.bin.celery", "celery_perpetual", "celery_perpetual.app", "celery_perpetual.beat.scheduler",
    "celery_perpetual.cli", "celery_perpetual.faults",
)  # fmt: skip
#: Modules of Django that need no settings.
DJANGOS = (
    "django.contrib.auth.hashers", "django.core.management.commands.migrate", "django.db.backends.sqlite3.base",
    "django.db.models.sql.compiler",
)  # fmt: skip
#: By the name of the template, which is its second argument.
IMPORTED = {"ours": (*CELERYS, *OURS), "plain": CELERYS, "django": (*CELERYS, *OURS, *DJANGOS)}

LONGEST_REQUEST = 1 << 18


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in the child, and None in the parent when nobody asks any more."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    numbers: dict[int, int] = {}
    children = count()
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        try:
            while numbers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                control.send(json.dumps([numbers.pop(ended[0]), ended[0], code]).encode())
        except (BrokenPipeError, ConnectionResetError):
            return None  # the test process was killed, and so were its children
        if control in ready:
            text, files, _, _ = socket.recv_fds(control, LONGEST_REQUEST, 3)
            if not text:
                return None
            number = next(children)
            child = os.fork()
            if not child:
                os.setsid()
                # Only now may it be killed as a group.
                control.send(json.dumps([number, os.getpid(), None]).encode())
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (woken, wakes):
                    os.close(each)
                control.close()
                request: dict[str, Any] = json.loads(text)
                become(request, files)
                return request
            for each in files:
                os.close(each)
            numbers[child] = number


def become(request: dict[str, Any], files: list[int]) -> None:
    """Take on files, folder and environment."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    if "celery_perpetual.faults" in sys.modules:
        sys.modules["celery_perpetual.faults"].read_environment()
    added = request["env"]["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = [str(Path.cwd()), *added, *PATH]


def run(argv: list[str]) -> None:
    """Do what ``python`` does with these arguments: ``-m module …``, ``-c code …``, or a file."""
    kind, what, *more = argv
    if kind == "-m":
        sys.argv = [what, *more]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert kind == "-c", argv
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["-c", *more]
    exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    PATH = sys.path[1:]
    for name in IMPORTED[sys.argv[2]]:
        import_module(name)
    # A collection would touch, and so copy, every page that the children share.
    gc.collect()
    gc.freeze()
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(asked["argv"])
