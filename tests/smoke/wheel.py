"""Does the wheel work where nothing else is? Run ``python tests/smoke/wheel.py dist/celery_perpetual-….whl``.

Makes a virtual environment in a temporary folder, installs the wheel there with its ``demo`` extra, and runs a small
project from an empty folder: embedded server, beat, worker; one item has to run. Exit status 0 or 1. Needs nothing but
the standard library, and pip's usual index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = """
import os
from pathlib import Path

from celery import Celery
from celery_perpetual import Item, Perpetual, PerpetualTask

app = Celery("shop", broker=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True
perpetual = Perpetual(app)


def due(poll):
    return [Item(kwargs={"name": "ada"}, key="ada")] if not Path("greeted").exists() else []


@app.task(base=PerpetualTask, poll_every=0.5, next_batch=due)
def greet(name):
    Path("greeted").write_text(name)
"""

SECONDS = 60


def main(wheel: Path) -> int:
    """Install and run; the exit status."""
    with tempfile.TemporaryDirectory(prefix="perpetual-wheel-") as folder:
        python, home = _installed(wheel, Path(folder) / "venv"), Path(folder) / "home"
        home.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PERPETUAL_"))}
        where = _output([python, "-c", "import celery_perpetual; print(celery_perpetual.__file__)"], home, env)
        if not Path(where).is_relative_to(folder):
            print(f"wheel: celery_perpetual comes from {where}, not from the wheel")
            return 1
        (home / "shop.py").write_text(PROJECT)
        return _run(python, home, env)


def _installed(wheel: Path, place: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = str(place / "bin" / "python")
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel.resolve()}[demo]"]
    subprocess.run([python, *words], check=True, cwd=place)
    return python


def _output(argv: list[str], home: Path, env: dict[str, str]) -> str:
    return subprocess.run(argv, check=True, cwd=home, env=env, stdout=subprocess.PIPE, text=True).stdout.strip()


def _run(python: str, home: Path, env: dict[str, str]) -> int:
    """Server, beat and worker until the item has run."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *words: str, **more: str) -> subprocess.Popen[str]:
        with (home / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [python, "-m", *words], cwd=home, env={**env, **more}, stdout=subprocess.PIPE if not more else log,
                stderr=log, text=True,
            )  # fmt: skip
        started.append(process)
        return process

    try:
        server = start("server", "celery_perpetual.embedded")
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            return _failed("the embedded server did not start", home)
        start("beat", "celery", "-A", "shop", "beat", REDIS_URL=url)
        start("worker", "celery", "-A", "shop", "worker", "-c", "1", REDIS_URL=url)
        deadline = time.monotonic() + SECONDS
        while not (home / "greeted").exists():
            if time.monotonic() > deadline:
                return _failed(f"no item ran within {SECONDS} s", home)
            if any(process.poll() is not None for process in started):
                return _failed("a process ended by itself", home)
            time.sleep(0.1)
        print("wheel: installed by itself, polled and ran an item")
        return 0
    finally:
        # The server last: the others say farewell to it.
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _failed(why: str, home: Path) -> int:
    print(f"wheel: {why}")
    for log in sorted(home.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text()[-3000:]}")
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/smoke/wheel.py WHEEL")
    sys.exit(main(Path(sys.argv[1])))
