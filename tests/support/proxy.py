"""A TCP proxy on loopback whose connections a test cuts."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Proxy:
    """Forwards to a port.

    ``cut()`` breaks all connections and accepts none until ``mend()``; ``forget()`` leaves them open and forwards nothing;
    ``move()`` leads new connections to another port, and those that there are stay where they are.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = True
        self._ended = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._forgotten: list[socket.socket] = []
        self._changed = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.refused = 0
        """How many connections were not accepted."""
        self.port: int = self._server.getsockname()[1]
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy")

    def cut(self) -> None:
        """Break everything."""
        with self._changed:
            self._open = False
            for each in list(self._pairs):
                self._drop(each)

    def mend(self) -> None:
        """Let connections through again."""
        with self._changed:
            self._open = True

    def move(self, target: int) -> None:
        """Stand for another server from now on, as a virtual address does after a fail-over."""
        with self._changed:
            self._target = target

    def forget(self) -> None:
        """Let go of the connections that there are without telling either end, as a firewall does with idle ones."""
        with self._changed:
            for each in self._pairs:
                self._selector.unregister(each)
            self._forgotten += self._pairs
            self._pairs.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._thread.join()
        self.cut()
        for each in self._forgotten:
            each.close()
        self._server.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.1):
                with self._changed:
                    if key.fileobj is self._server:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._server.accept()
        try:
            if not self._open:
                raise ConnectionError
            target = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            client.close()
            self.refused += 1
            return
        for one, other in ((client, target), (target, client)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if data:
                self._pass_on(source, data)
        except OSError:
            data = b""
        if not data:
            self._drop(source)

    def _pass_on(self, source: socket.socket, data: bytes) -> None:
        self._pairs[source].sendall(data)

    def _drop(self, one: socket.socket) -> None:
        other = self._pairs.pop(one, None)
        if other is not None:
            self._selector.unregister(one)
            one.close()
            self._drop(other)
