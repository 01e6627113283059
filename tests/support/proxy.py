"""A TCP proxy on loopback whose connections a test cuts."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Proxy:
    """Forwards to a port.

    ``cut()`` breaks all connections and accepts none until ``mend()``; ``forget()`` leaves them open and forwards nothing;
    ``hold()`` reads nothing more from those that there are until ``let_go()``, as a server that stands still;
    ``move()`` leads new connections to another port, and those that there are stay where they are.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        """With which it speaks to clients; None: without TLS."""
        self._open = True
        self._ended = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._forgotten: list[socket.socket] = []
        self._held: set[socket.socket] = set()
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
            for each in self._pairs.keys() - self._held:
                self._selector.unregister(each)
            self._held.clear()
            self._forgotten += self._pairs
            self._pairs.clear()

    def hold(self) -> None:
        """Read nothing more from the connections that there are; new ones are forwarded."""
        with self._changed:
            for each in self._pairs.keys() - self._held:
                self._selector.unregister(each)
                self._held.add(each)

    def let_go(self) -> None:
        """Forward everything again, also what has arrived meanwhile."""
        with self._changed:
            for each in self._held:
                self._selector.register(each, selectors.EVENT_READ)
            self._held.clear()

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
                    elif key.fileobj in self._pairs.keys() - self._held:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._server.accept()
        try:
            if not self._open:
                raise ConnectionError
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
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
            while isinstance(source, ssl.SSLSocket) and source.pending():
                data += source.recv(source.pending())
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
            if one in self._held:
                self._held.remove(one)
            else:
                self._selector.unregister(one)
            one.close()
            self._drop(other)
