"""Waiting for many sockets at once. `selectors` does it too, for a tenth of the time that a whole message takes."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Generic, TypeVar

READ, WRITE = select.POLLIN, select.POLLOUT  # epoll has the same numbers
BOTH = READ | WRITE

Owner = TypeVar("Owner")


class Poller(Generic[Owner]):
    """Sockets and whom they belong to. For one thread."""

    def __init__(self) -> None:
        linux = hasattr(select, "epoll")
        self._poll: select.epoll | select.poll = select.epoll() if linux else select.poll()
        self._unit = 1 if linux else 1000  # of its time-outs, a second being 1
        self._owners: dict[int, Owner] = {}

    def watch(self, sock: socket.socket, events: int, owner: Owner) -> None:
        """From now on `wait` tells of these events, and of errors and hang-ups, which it calls by other bits."""
        number = sock.fileno()
        if number in self._owners:
            self._poll.modify(number, events)
        else:
            self._poll.register(number, events)
        self._owners[number] = owner

    def forget(self, sock: socket.socket) -> None:
        """To be called before the socket is closed: its number may soon be another's."""
        number = sock.fileno()
        if self._owners.pop(number, None) is not None:
            with suppress(OSError):
                self._poll.unregister(number)

    def wait(self, seconds: float | None) -> list[tuple[Owner, int]]:
        """What has happened within so many seconds, None being for ever; owners with bits."""
        owners = self._owners  # looked up for all before any is served, who may close the sockets of others
        found = self._poll.poll(seconds if seconds is None else seconds * self._unit)
        return [(owners[number], events) for number, events in found]

    def close(self) -> None:
        if isinstance(self._poll, select.epoll):
            self._poll.close()
