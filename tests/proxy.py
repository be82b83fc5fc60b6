"""TCP on loopback in front of a PostgreSQL server's Unix socket: a network that can be cut, or fall silent."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path


class Proxy:
    """Use it until `close`. Many connections at once; each is carried by a thread of its own."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut = False
        self._carrying = threading.Event()
        self._carrying.set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Closes every connection and lets none in until `mend`."""
        with self._lock:
            self._cut = True
            _close(*self._open)
            self._open.clear()

    def silence(self) -> None:
        """Keeps every connection and lets new ones in, but carries nothing until `mend`: nobody is told of it."""
        self._carrying.clear()

    def mend(self) -> None:
        self._cut = False
        self._carrying.set()

    def close(self) -> None:
        # Closing alone does not wake who waits in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._carrying.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._cut:
                    _close(client)
                    continue
                self._open.add(client)
            threading.Thread(target=self._carry_from, args=(client,), name="proxy", daemon=True).start()

    def _carry_from(self, client: socket.socket) -> None:
        # The server does not see who comes while nothing is carried: it would wait for their first word.
        self._carrying.wait()
        server = socket.socket(socket.AF_UNIX)
        with self._lock:
            self._open.add(server)
        try:
            server.connect(self._target)
        except OSError:  # the server is away, too, or the network was cut meanwhile
            self._end(client, server)
            return
        self._carry(client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with suppress(OSError, ValueError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    self._carrying.wait()
                    octets = ready.recv(65536)
                    if not octets:
                        return self._end(client, server)
                    other[ready].sendall(octets)
        return self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(sockets)
            _close(*sockets)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
