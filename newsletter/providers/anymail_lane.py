"""One line to a service: a request, its answer, and what is certain when there is none.

Nothing is ever sent again by itself: no retries, no redirects. Each call has a deadline for the whole of it, since a
time-out for each read lets a server that drips one octet at a time hold a call for hours.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

MOST = 1 << 22  # octets of an answer that are read; a thousand ids take 80 kB
IDLE = 20.0  # seconds after which a connection is not used again: many servers close one after 60
_CONNECT = 15.0  # seconds to wait for a connection
_LOOK = 0.1  # seconds between two looks at the deadlines


class Unreached(Exception):
    """No request left: nothing was handed over. The text holds no address and no key."""


class Lost(Exception):
    """The request left and no answer came, or half of one. The text holds no address and no key."""


class Call:
    """One request on its way."""

    __slots__ = ("connection", "cut", "deadline", "error", "gate", "handed")

    def __init__(self, deadline: float, gate: Callable[[], None]) -> None:
        self.deadline = deadline  # of time.monotonic
        self.gate = gate  # called right before the body leaves; when it raises, the body does not
        self.error: BaseException | None = None  # what it raised
        self.connection: Any = None
        self.handed = False  # the body has begun to leave
        self.cut = False  # the deadline passed


_here = threading.local()  # the call that this thread makes


class _Watched:
    """A connection that tells the call when the body leaves."""

    _head = False
    sock: Any

    def connect(self) -> None:
        _here.call.connection = self
        super().connect()  # type: ignore[misc]

    def endheaders(self, *arguments: Any, **more: Any) -> None:
        _here.call.connection = self
        self._head = True
        try:
            super().endheaders(*arguments, **more)  # type: ignore[misc]
        finally:
            self._head = False

    def send(self, data: Any) -> None:
        call = _here.call
        if not self._head and not call.handed:
            try:
                call.gate()
            except BaseException as error:
                call.error = error
                raise _Halted from error  # which nobody in between takes for an error of the network
            call.handed = True
        super().send(data)  # type: ignore[misc]


class _Halted(Exception):
    pass


class _Plain(_Watched, HTTPConnection):
    pass


class _Secure(_Watched, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        _watch_pools(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **more: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **more)
        _watch_pools(manager)
        return manager


def _watch_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}


class Watch:
    """Cuts the connection of every call whose deadline has passed. One thread, started with the first call."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        with self._changed:
            self._calls.add(call)
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="anymail deadlines", daemon=True)
                self._thread.start()
            elif len(self._calls) == 1:
                self._changed.notify()

    def remove(self, call: Call) -> None:
        with self._changed:
            self._calls.discard(call)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._calls and not self._changed.wait(10.0) and not self._calls:
                    self._thread = None
                    return
                now = time.monotonic()
                for call in self._calls:  # under the lock: once a call is removed, its connection may be another's
                    if call.deadline <= now:
                        call.cut = True
                        _shut(call.connection)
            time.sleep(_LOOK)


def _shut(connection: Any) -> None:
    """Ends both directions, so that a thread that reads or writes there wakes up."""
    sock = getattr(connection, "sock", None)
    if sock is not None:
        with suppress(OSError, ValueError, TypeError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of an SSLSocket, which belongs to one thread


class Line:
    """A backend of django-anymail with connections of its own: for one thread at a time.

    Its requests go through an adapter of `requests`, not through a session: there are no cookies here, no redirects and
    no .netrc (which would take the place of a key), and a session takes a quarter of the time of a request to say so.
    """

    def __init__(self, url: str, backend: Any, *, timeout: float, watch: Watch) -> None:
        self.backend = backend
        self._url, self._timeouts, self._watch = url, (min(_CONNECT, timeout), timeout), watch
        self._used = time.monotonic()
        self._adapter = _Adapter(max_retries=0)
        self._proxies = requests.utils.get_environ_proxies(url)
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True

    def prepared(self, payload: Any) -> requests.PreparedRequest:
        """A request of anymail's, ready to leave: made once, since some payloads can tell their contents only once."""
        asked = payload.get_request_params(self._url)
        headers = {"User-Agent": "newsletter (django-anymail)", "Accept-Encoding": "gzip"}
        return requests.Request(**asked | {"headers": headers | (asked["headers"] or {})}).prepare()

    def exchange(self, request: requests.PreparedRequest, gate: Callable[[], None]) -> requests.Response:
        """The whole answer. Raises `Unreached` or `Lost`.

        `gate` is called when there is a connection and the body is about to leave. What it raises comes out here, and
        the body does not leave.
        """
        now = time.monotonic()
        if now - self._used > IDLE:
            self._adapter.close()  # its connections; it opens others
        _here.call = call = Call(now + self._timeouts[1], gate)
        self._watch.add(call)
        try:
            with self._adapter.send(
                request, stream=True, timeout=self._timeouts, verify=self._verify, proxies=self._proxies
            ) as answer:
                return _read(answer)
        except _Halted:
            self._adapter.close()
            assert call.error
            raise call.error from None
        except _BROKEN as error:
            self._adapter.close()
            reason = f"no answer within {self._timeouts[1]:g} s" if call.cut or _timed_out(error) else cause(error)
            raise (Lost if call.handed else Unreached)(reason) from None
        finally:
            self._watch.remove(call)
            self._used = time.monotonic()
            if call.cut:  # in the very moment in which the answer was whole
                self._adapter.close()

    def close(self) -> None:
        self._adapter.close()


# What a connection may raise, of itself or since another thread has cut it.
_BROKEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    AttributeError,
)


def _read(answer: requests.Response) -> requests.Response:
    """The answer with its body in memory."""
    body = b""
    for piece in answer.iter_content(1 << 16):
        body += piece
        if len(body) > MOST:
            raise ValueError("the answer has no end")
    whole = requests.Response()
    whole.status_code, whole.reason = answer.status_code, answer.reason
    whole.headers, whole.url = answer.headers, answer.url
    whole.raw = io.BytesIO(body)
    whole.encoding = "utf-8"  # a guess costs seconds when somebody sends us much
    whole.content  # noqa: B018 (reads it)
    return whole


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, requests.Timeout) or any(isinstance(each, TimeoutError) for each in _chain(error))


def cause(error: BaseException) -> str:
    """Why a connection failed, in the words of the system; never those of a library, which hold the address asked."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.strerror:
            return str(each.strerror)
    return type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 20:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [*each.args, getattr(each, "reason", None), each.__context__, each.__cause__]
    return found


class Lines:
    """Lines that are free, for whoever needs one. `with lines.one() as line`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._free: deque[Any] = deque()
        self._age = 0

    @contextmanager
    def one(self) -> Iterator[Any]:
        age = self._age
        try:
            line = self._free.pop()
        except IndexError:
            line = self._make()
        try:
            yield line
        finally:
            if age == self._age:
                self._free.append(line)
            else:  # everything was closed in between
                line.close()

    def close(self) -> None:
        self._age += 1
        while self._free:
            self._free.pop().close()


class Turns(Protocol):
    """Work that is done one piece at a time, by several threads at once."""

    def turn(self) -> Callable[[], None] | None:
        """The next piece; None when all have been given out."""


class Crew:
    """Threads that take turns at all the work there is: a single mail waits for one request, not for a chunk."""

    def __init__(self, size: int) -> None:
        self._work: deque[Turns] = deque()
        self._changed = threading.Condition()
        self.stopped = False
        self._size = size
        self.threads: list[threading.Thread] = []

    def take(self, work: Turns, *, pieces: int) -> None:
        with self._changed:
            self._work.append(work)
            for _ in range(min(pieces, self._size - len(self.threads))):
                thread = threading.Thread(target=self._run, name=f"anymail {len(self.threads)}", daemon=True)
                self.threads.append(thread)
                thread.start()
            self._changed.notify(pieces)

    def stop(self) -> None:
        """No piece is begun from now on; those in hand are finished."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._work and not self.stopped:
                    self._changed.wait()
                if self.stopped:
                    return
                work = self._work.popleft()
                piece = work.turn()
                if piece is None:
                    continue
                self._work.append(work)
            piece()
