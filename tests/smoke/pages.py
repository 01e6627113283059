"""Do README, "Start" and "Django" work as they are written? Run ``python tests/smoke/pages.py dist/celery_perpetual-….whl``.

Follows each page from an empty folder, in a virtual environment that has nothing, with a Redis server on its usual port
(another one, if that is taken):

* a block of Python whose first line is ``# path`` is a file; ``# path, at its end`` is added to one,
* each line of a block of sh is run; ``celery … beat`` and ``celery … worker`` go on in the background,
* a block of text is output that comes within half a minute, from the commands before it or in the background.

Exit status 0 or 1. Needs nothing but the standard library, ``redis-server``, and pip's usual index.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Output that a page promises outside of its blocks of text; then the commands that are no part of its story.
PAGES = {"README.md": ["hello ada", "hello grace", "hello edsger"], "docs/start.md": [], "docs/django.md": []}
LEFT_OUT = re.compile(r"make |celery -A proj perpetual wait |docker ")
BACKGROUND = re.compile(r"celery -A \w+ (beat|worker)\b")
BLOCK = re.compile(r"^( *)```(python|sh|text)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w/]+\.py)(, at its end)?\n")
USUAL_PORT, SECONDS = 6379, 30


class Broken(Exception):
    """A page does not do what it says."""


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder: Path, env: dict[str, str], port: int, processes: ExitStack) -> None:
        self.folder, self.env, self.port, self._processes = folder, env, port, processes
        self.background: dict[str, subprocess.Popen[bytes]] = {}
        self.printed = ""

    def follow(self, text: str) -> None:
        """Go through the blocks of a page."""
        for _, kind, code in BLOCK.findall(text):
            if kind == "python" and (named := FILE.match(code)):
                self._write(named[1], code[named.end() :], at_end=bool(named[2]))
            elif kind == "sh":
                self.printed = ""
                for line in code.splitlines():
                    if line.strip() and not LEFT_OUT.match(line):
                        self._run(line)
            elif kind == "text":
                for line in code.splitlines():
                    self.expect(line)

    def expect(self, line: str) -> None:
        """Wait for output."""
        deadline = time.monotonic() + SECONDS
        while line not in self.printed + self._logs():
            for command, process in self.background.items():
                if process.poll() is not None:
                    raise Broken(f"{command} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise Broken(f"nothing printed {line!r} within {SECONDS} s")
            time.sleep(0.1)

    def _write(self, name: str, code: str, *, at_end: bool) -> None:
        code = code.replace(f"localhost:{USUAL_PORT}", f"localhost:{self.port}")
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if at_end else "") + code)

    def _run(self, line: str) -> None:
        print(f"  {line}", flush=True)
        if BACKGROUND.match(line):
            self._start(line)
            return
        if line.startswith(("python3 -m venv", ". ")):
            return  # all pages share one environment, which is active
        deadline = time.monotonic() + SECONDS
        while True:
            done = subprocess.run(
                ["sh", "-c", line], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False, timeout=300,
            )  # fmt: skip
            # A person types more slowly than beat and worker start.
            if done.returncode <= 1 or " perpetual " not in line or time.monotonic() > deadline:
                break
            time.sleep(1)
        said = done.stdout + done.stderr
        # A verb may say "no" (1); it was not understood, or something is broken, where there is more than that.
        if done.returncode > 1 or "Traceback" in said or (done.returncode and " perpetual " not in line):
            raise Broken(f"{line}\nended with {done.returncode}\n{said}")
        self.printed += said

    def _start(self, line: str) -> None:
        name = f"background-{len(self.background)}.log"
        with (self.folder / name).open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {line}"], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        self.background[line] = process
        self._processes.callback(end, process)

    def _logs(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob("background-*.log")))


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and make sure."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def port_for_redis() -> int:
    """The usual one, or a free one where that is taken."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Broken("no port is free")


def environment(folder: Path, wheel: Path) -> dict[str, str]:
    """Of a new virtual environment, in which pip finds the wheel."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PERPETUAL_", "DJANGO_"))
    }
    return {
        **inherited,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_FIND_LINKS": str(wheel.resolve().parent),
        "PIP_QUIET": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def follow(page: str, folder: Path, env: dict[str, str]) -> None:
    """Follow one page, with a server of its own."""
    with ExitStack() as processes:
        port, home = port_for_redis(), folder / Path(page).stem
        home.mkdir()
        server = shutil.which("redis-server") or shutil.which("valkey-server")
        if server is None:
            raise Broken("no redis-server is installed")
        argv = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        processes.callback(end, subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        reader = Reader(home, env, port, processes)
        try:
            reader.follow((ROOT / page).read_text(encoding="utf-8"))
            for line in PAGES[page]:
                reader.expect(line)
        except Broken:
            for log in sorted(home.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
            raise


def main(wheel: Path) -> int:
    """Follow every page; the exit status."""
    with tempfile.TemporaryDirectory(prefix="perpetual-pages-") as name:
        env = environment(Path(name), wheel)
        for page in PAGES:
            print(f"{page}:", flush=True)
            try:
                follow(page, Path(name), env)
            except Broken as broken:
                print(f"{page} does not work as it is written: {broken}")
                return 1
    print("pages: README, start and Django work as they are written")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/smoke/pages.py WHEEL")
    sys.exit(main(Path(sys.argv[1])))
