"""Kills a process before each of its writes to Redis in turn, from outside.

A process that dies between two calls leaves what it has written and nothing of the rest, so its deaths are as many as
its writes. A proxy before the server reads the commands of the process, kills it when its n-th write comes, and does not
let that one through. A transaction counts as one write, as the server takes all of it or nothing.
"""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.support.proxy import Proxy

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import redis
    from typing_extensions import Self

    from tests.support.projects import Project

#: Commands that leave the server as it was.
READS = frozenset(
    """AUTH CLIENT COMMAND ECHO EXISTS GET GETBIT HELLO HEXISTS HGET HGETALL HKEYS HLEN HMGET HSCAN HVALS INFO KEYS LINDEX
    LLEN LRANGE MGET MULTI PING PSUBSCRIBE PTTL PUBSUB PUNSUBSCRIBE SCAN SCARD SELECT SISMEMBER SMEMBERS SMISMEMBER SSCAN
    STRLEN SUBSCRIBE TIME TTL TYPE UNSUBSCRIBE UNWATCH WATCH XINFO XLEN XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZMSCORE ZRANGE
    ZRANGEBYSCORE ZREVRANGE ZSCAN ZSCORE""".split()  # noqa: SIM905
)


class _Commands:
    """The commands of one connection, as it has sent them."""

    def __init__(self) -> None:
        self._rest = b""
        self.in_transaction = False

    def feed(self, data: bytes) -> Iterator[tuple[list[bytes], bytes]]:
        """The words of each command that is complete, and its bytes."""
        self._rest += data
        while (found := self._first()) is not None:
            words, end = found
            raw, self._rest = self._rest[:end], self._rest[end:]
            yield words, raw

    def _first(self) -> tuple[list[bytes], int] | None:
        words: list[bytes] = []
        end = self._rest.find(b"\r\n") + 2
        if end < 2:
            return None
        for _ in range(int(self._rest[1 : end - 2])):
            begin = self._rest.find(b"\r\n", end) + 2
            if begin < 2:
                return None
            length = int(self._rest[end + 1 : begin - 2])
            end = begin + length + 2
            if len(self._rest) < end:
                return None
            words.append(self._rest[begin : begin + length])
        return words, end


class Killer(Proxy):
    """Stands before a Redis server."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        super().__init__(where.port or 6379)
        self.url = where._replace(netloc=f"127.0.0.1:{self.port}").geturl()
        self.writes: list[str] = []
        """The writes of the process since :meth:`arm`, for people; the last one is not carried out if it was killed."""
        self._commands: defaultdict[socket.socket, _Commands] = defaultdict(_Commands)
        self._nth = 0
        self._victim: Future[int] = Future()
        self.has_killed = False

    def arm(self, nth: int) -> None:
        """The process that comes next is killed before its n-th write; 0: none is, and everything goes through."""
        with self._changed:
            self._nth, self._victim, self.has_killed, self.writes = nth, Future(), False, []

    def aim(self, pid: int) -> None:
        """Say which process that is."""
        self._victim.set_result(pid)

    def _pass_on(self, source: socket.socket, data: bytes) -> None:
        if source.getsockname()[1] != self.port:
            super()._pass_on(source, data)
            return
        commands = self._commands[source]
        for words, raw in commands.feed(data):
            if self._is_write(commands, words) and self._nth and not self.has_killed:
                # Of a script the first of its keys says most.
                self.writes.append(b" ".join(words[:1] + (words[3:4] if len(words) > 3 else words[1:2])).decode())
                if len(self.writes) == self._nth:
                    self.has_killed = True
                    with suppress(ProcessLookupError):
                        os.kill(self._victim.result(20), signal.SIGKILL)
            if self.has_killed:
                return
            super()._pass_on(source, raw)

    def _drop(self, one: socket.socket) -> None:
        self._commands.pop(one, None)
        super()._drop(one)

    @staticmethod
    def _is_write(commands: _Commands, words: list[bytes]) -> bool:
        name = words[0].decode().upper()
        if name in ("MULTI", "EXEC", "DISCARD"):
            commands.in_transaction = name == "MULTI"
            return name == "EXEC"
        return name not in READS and not commands.in_transaction


class Snapshot:
    """All keys of a server, to be brought back as often as it is needed."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep all of it.

        Args:
            client: returns bytes.
        """
        self._client = client
        self._keys = {key: (client.dump(key), max(0, client.pttl(key))) for key in client.scan_iter()}

    def restore(self) -> None:
        """Bring it back, and nothing else."""
        self._client.flushdb()
        for key, (value, ttl) in self._keys.items():
            self._client.restore(key, ttl, value)


# Forks for each line, which is code, and says the pid and then the exit code of the child. It has imported the project
# and run nothing, so that a child is a fresh process of the project.
NURSERY = """
import json, os, sys, traceback
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import {module}
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            exec(json.loads(line), vars({module}))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, file=replies, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=replies, flush=True)
"""


class Nursery:
    """Runs code in processes of a project, one after the other, and lets them be killed."""

    def __init__(self, project: Project, killer: Killer) -> None:
        """The project's Redis is behind the killer."""
        self._killer = killer
        self._log = project.folder / "nursery.log"
        with self._log.open("ab") as log:
            self._interpreter = project.interpreter(NURSERY.format(module=project.name), err=log)

    def run(self, code: str) -> None:
        """Run code in a new process, which is not killed.

        Raises:
            AssertionError: it raised.
        """
        self._killer.arm(0)
        assert self._exit_code(code) == 0, self._log.read_text()[-4000:]

    def kill_before_each_write(
        self, code: str, prepare: Callable[[], object], check: Callable[[bool], object], most: int = 100
    ) -> list[str]:
        """Let a process die before its first write, then before its second one, and so on, until it ends by itself.

        Args:
            code: of the process.
            prepare: makes the state in which it begins.
            check: is called after each end, with whether it was killed.
            most: deaths; a process that reports that it lives has no last write.

        Returns:
            The writes that it made at last.
        """
        writes: list[str] = []
        for nth in range(1, most + 1):
            prepare()
            self._killer.arm(nth)
            ended, was_killed, writes = self._exit_code(code), self._killer.has_killed, self._killer.writes
            self._killer.arm(0)
            try:
                assert ended == (-signal.SIGKILL if was_killed else 0)
                check(was_killed)
            except BaseException as error:
                where = (
                    f"killed before {writes[-1]}, after {writes[:-1]}" if was_killed else f"not killed, after {writes}"
                )
                raise AssertionError(f"write {nth}: {where}; {error}\n{self._log.read_text()[-4000:]}") from error
            if not was_killed:
                break
        return writes

    def _exit_code(self, code: str) -> int:
        self._interpreter.say(json.dumps(code))
        self._killer.aim(int(self._interpreter.hear()))
        return int(self._interpreter.hear())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interpreter.end(timeout=10)
