"""The programs of docs/waiting.md are run as they stand, by the tools they are written for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support import wait_until
from tests.support.held_tasks import Call

if TYPE_CHECKING:
    from tests.support.held_tasks import HeldTasks

PAGE = (Path(__file__).parents[2] / "docs" / "waiting.md").read_text(encoding="utf-8")


def programs(language: str) -> list[str]:
    """The page's programs in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def missing(tool: str) -> None:
    """Skip, but never under CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{tool} is missing, and in CI nothing is skipped")
    pytest.skip(f"{tool} is missing")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder with the Node clients."""
    if shutil.which("npm") is None:
        missing("npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "redis@6", "ioredis@6"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"a registry for npm ({done.stderr[-300:]})")
    return folder


def run(argv: list[str], folder: Path, shop: HeldTasks, task_id: str) -> dict[str, object]:
    """Run a program of the page and read the completion that it prints."""
    env = {**os.environ, "REDIS_URL": shop.server.url, "TASK_ID": task_id}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def waits(shop: HeldTasks, task_id: str) -> bool:
    """Whether somebody is subscribed to a task, or blocks: the worker and its tasks do so themselves."""
    blocked = [each for each in shop.redis.client_list() if each["cmd"] in {"blpop", "blmove"} and "b" in each["flags"]]
    return len(blocked) >= 2 or shop.subscribers(task_id) > 0


def check(shop: HeldTasks, argv: list[str], folder: Path) -> None:
    """The program is woken by the end, and finds one that is over."""
    gate = shop.gate()
    task_id = shop.poll({"gate": gate, "result": {"sum": 3}, "score": 0.93}).task_ids[0]
    wait_until(lambda: shop.redis.llen("celery") == 0, "the task runs")
    early = Call(run, argv, folder, shop, task_id)
    wait_until(lambda: waits(shop, task_id), "the program waits")
    shop.open(gate)
    answer = early.result(60)

    assert (answer["task_id"], answer["status"], answer["result"]) == (task_id, "success", {"sum": 3})
    assert (answer["v"], answer["final"], answer["meta"], answer["error"]) == (1, True, {"score": 0.93}, None)

    over = shop.poll({"raises": "boom"}).task_ids[0]
    shop.perpetual.wait(over, 30)
    assert run(argv, folder, shop, over)["error"] == {"type": "ValueError", "message": "boom"}


@pytest.mark.parametrize("number", range(3), ids=["BLPOP", "BLMOVE", "SUBSCRIBE and GET"])
def test_redis_cli_waits(shop, tmp_path, number):
    """The three ways of the shell get the record, whether they come before or after the end."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli")
    check(shop, ["sh", "-c", programs("sh")[number]], tmp_path)


def test_redis_cli_that_waits_in_vain(shop, tmp_path):
    """When the time is over the subscribing program ends with 1, prints nothing, and leaves nothing behind."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli")
    program = programs("sh")[2]
    assert "timeout 30 " in program
    env = {**os.environ, "REDIS_URL": shop.server.url, "TASK_ID": "nosuch", "TMPDIR": str(tmp_path)}

    argv = ["sh", "-c", program.replace("timeout 30 ", "timeout 1 ")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert list(tmp_path.iterdir()) == []


def test_redis_cli_with_a_password(private_redis):
    """The form of the address that the page has is understood by the oldest supported `redis-cli`."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli")
    assert "redis://default:password@" in PAGE
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "secret")
    url = f"redis://default:secret@127.0.0.1:{server.port}/0"

    done = subprocess.run(["redis-cli", "-u", url, "PING"], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "PONG\n"


@pytest.mark.parametrize("client", ["redis", "ioredis"])
def test_node_waits(shop, packages, client):
    """The two programs for Node get the record, whether they come before or after the end."""
    program = next(text for text in programs("js") if f'from "{client}"' in text)
    (packages / f"{client}.js").write_text(program)
    check(shop, ["node", f"{client}.js"], packages)


def test_the_python_of_the_page_runs(shop):
    """The blocking and the async program print what a real worker has ended."""
    poll = shop.poll({"result": {"sum": 3}}, {"result": 2})
    shop.perpetual.wait_batch(poll.poll_id, 30)
    ids = list(poll.task_ids)
    values = f"task_id, ids, poll_id = {ids[0]!r}, {ids!r}, {poll.poll_id!r}\n"
    blocking, coroutines, following, following_as_coroutine = programs("python")

    out = shop.project.run_python(values + blocking)
    assert out.splitlines()[0] == "success {'sum': 3} None"
    assert set(out.splitlines()[1:3]) == {f"{task_id} success" for task_id in ids}
    assert out.splitlines()[3:] == ["{'success': 2} True", "success"]

    out = shop.project.run_python(values + coroutines)
    assert out.splitlines()[0] == "success {'sum': 3}"
    assert set(out.splitlines()[1:]) == {f"{task_id} success" for task_id in ids}

    printing = "\nimport asyncio\nasync def send(end): print(end['task_id'], end['status'], flush=True)\nasyncio.run(send_ends(send))"
    follower = shop.project.process("follower", ["-c", following])
    coroutine = shop.project.process("coroutine", ["-c", following_as_coroutine + printing])
    wait_until(lambda: shop.redis.pubsub_numsub("perpetual:done")[0][1], "the coroutine is subscribed")
    for task_id in ids:
        follower.wait_for_log(f"{task_id} success")
    coroutine.wait_for_log(f"{shop.poll({'result': 4}).task_ids[0]} success")
    follower.kill9()
    coroutine.kill9()


def test_the_json_of_the_page_is_that_of_a_completion(shop):
    """The documented fields are the stored ones, no more and no less."""
    task_id = shop.poll({"result": 1}).task_ids[0]
    shop.perpetual.wait(task_id, 30)

    documented = json.loads(programs("json")[0])
    stored = json.loads(shop.redis.get(f"perpetual:completion:{task_id}"))

    assert documented.keys() == stored.keys()
    assert {name: type(value) for name, value in documented.items() if name not in {"result", "key"}} == {
        name: type(value) for name, value in stored.items() if name not in {"result", "key"}
    }
