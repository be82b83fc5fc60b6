"""HTTP for the sendgrid provider: the official client over a connection that stays open, with an end to every wait.

The package `sendgrid` (6.12.5, over python-http-client 3.3.7) opens a connection for each request, waits for ever, and
writes key and payload into its log at DEBUG. What it offers for overriding is enough to do better without leaving it:
`Client._make_request` may send the request over a connection of ours, `send` takes any object with a `get`, and what it
formats for its log is asked for its own text first (`_Hidden`).
"""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import python_http_client
from sendgrid import SendGridAPIClient

from newsletter.errors import ProviderDown, ProviderUnsure

MOST_HEADERS = MOST_BODY = 1 << 16  # octets of an answer that are read
IDLE = 10.0  # seconds after which an unused connection is not trusted any more: load balancers close silently
_CONNECT = 15.0  # seconds for a connection, and once more for TLS
_PIECE = 1 << 18  # octets handed to the system at once


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # by their names in lower case
    body: bytes  # empty when it was longer than `MOST_BODY`


class Line:
    """The official client and its connection. For one thread at a time: the client keeps state between calls.

    What `open` and `post` raise says whether anything may have arrived: `ProviderDown` never, `ProviderUnsure` perhaps.
    """

    def __init__(self, *, key: str, host: str, timeout: float, tls: ssl.SSLContext | None) -> None:
        """`host` is a URL without a path; `timeout` bounds the sending of a request, and once more its answer."""
        self._key, self._timeout, self._tls = key, timeout, tls
        parts = urlsplit(host)
        self._secure, self._name, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._connection: _Bounded | None = None
        self._fresh = True  # nothing was sent over the connection so far
        self._used = 0.0
        self._api = SendGridAPIClient(key, host=host)
        headers = {name: value for name, value in self._api.client.request_headers.items() if name != "Authorization"}
        # The client makes JSON of a payload unless this differs from "application/json". The blank does not get onto
        # the wire.
        headers["Content-Type"] = " application/json"
        self._api.client = _Client(self, host=host, request_headers=headers, version=3)

    def open(self) -> None:
        """Makes sure that there is a connection which the other side has not closed."""
        if self._connection:
            # On a fresh one TLS 1.3 has its tickets waiting to be read.
            ended = not self._fresh and _readable(self._connection.sock)
            if not ended and time.monotonic() - self._used < IDLE:
                return
            self.close()
        wait = min(self._timeout, _CONNECT)
        if self._secure:
            connection: _Bounded = _BoundedTls(self._name, self._port, timeout=wait, context=self._tls)
        else:
            connection = _Bounded(self._name, self._port, timeout=wait)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            why = f"{self._name}: no connection ({reason(error)}), so nothing left"
            raise ProviderDown(f"{why}; look at the network, at a firewall, at sendgrid.region") from None
        self._connection, self._fresh, self._used = connection, True, time.monotonic()

    def post(self, text: Callable[[], str]) -> Answer:
        """The answer to a request to /v3/mail/send, whose JSON is `text()`: nobody keeps a second copy of it."""
        try:
            response = self._api.send(_Payload(text))
        except BaseException:
            self.close()  # an answer that is still to come must not be taken for that to another request
            raise
        return Answer(response.status_code, response.headers, bytes(response.body))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def forget(self) -> None:
        """For a child after a fork: lets go of the connection without a word to the other side."""
        connection, self._connection = self._connection, None
        if connection and connection.sock:
            socket.close(connection.sock.detach())

    def exchange(self, request: urllib.request.Request) -> _Response:
        """What the package calls instead of urllib."""
        headers = {name.title(): value.strip() for name, value in request.header_items()}
        headers["Authorization"] = f"Bearer {self._key}"
        while True:
            self.open()
            connection, fresh = self._connection, self._fresh
            assert connection
            self._fresh = False
            failure = ""
            try:
                connection.begin(self._timeout)
                connection.request(request.get_method(), request.selector, body=request.data, headers=headers)
            except OSError as error:
                failure = reason(error)
                if not connection.body_octets:
                    self.close()
                    if not fresh:
                        continue  # closed by the other side since its last answer
                    raise ProviderDown(f"{self._name}: the connection broke ({failure}); nothing left") from None
            return self._answer(connection, failure)

    def _answer(self, connection: _Bounded, failure: str) -> _Response:
        """Also after a request that could not be sent to its end: a server may say no without reading all of it."""
        connection.begin(5.0 if failure else self._timeout)
        try:
            response = connection.getresponse()
            if response.status == 202 and response.length is None and not response.chunked:
                body = b""  # it would end with the connection, and nothing in it matters
            elif response.length is not None and response.length <= MOST_BODY:
                body = response.read()
            else:
                body = response.read(MOST_BODY + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            why = failure or reason(error)
            raise ProviderUnsure(f"{self._name}: the request left, and its answer was lost ({why})") from None
        too_long = len(body) > MOST_BODY
        if failure or too_long or response.will_close or not response.isclosed():
            response.close()
            self.close()
        if failure and not 400 <= response.status < 500:
            raise ProviderUnsure(f"{self._name}: status {response.status} to a request that broke off ({failure})")
        self._used = time.monotonic()
        headers = {name.lower(): str(value) for name, value in response.headers.items()}
        return _Response(response.status, headers, b"" if too_long else body)


class Lines:
    """Lines for any number of threads. At most `most` of them are in use at one time, and one more for what is urgent.

    After a fork a child has its own. Without `tls` the server's certificate and name are verified as usual.
    """

    def __init__(self, *, key: str, host: str, timeout: float, tls: ssl.SSLContext | None, most: int) -> None:
        tls = tls or (ssl.create_default_context() if host.startswith("https:") else None)  # once: it takes 20 ms
        self._key, self._host, self._timeout, self._tls, self._most = key, host, timeout, tls, most
        self._idle: list[Line] = []
        self._closings = 0
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._slots, self._urgent_slot = threading.Semaphore(self._most), threading.Semaphore(1)

    @contextmanager
    def line(self, *, urgent: bool = False) -> Iterator[Line]:
        """A line that is nobody else's for a while. Waits for it; what is urgent has one more to hope for."""
        if self._process != os.getpid():  # a child: the parent's connections are not ours to speak on
            self._begin()
            for line in self._idle:
                line.forget()
            self._idle = []
        slot = self._urgent_slot if urgent and self._urgent_slot.acquire(blocking=False) else self._slots
        if slot is self._slots:
            slot.acquire()
        try:
            with self._lock:
                closings = self._closings
                kept = self._idle.pop() if self._idle else None
            line = kept or Line(key=self._key, host=self._host, timeout=self._timeout, tls=self._tls)
            try:
                yield line
            finally:
                with self._lock:
                    still = closings == self._closings
                    if still:
                        self._idle.append(line)
                if not still:
                    line.close()
        finally:
            slot.release()

    def close(self) -> None:
        """Closes the connections; those in use when they are given back."""
        if self._process != os.getpid():
            return
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for line in idle:
            line.close()


def reason(error: Exception) -> str:
    """What went wrong, in words of ours: an exception of http.client may hold what the server said."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "cut short"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}".replace("_", " ").lower()
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "not an HTTP answer"


# --- what the package is given ----------------------------------------------------------------------------------------


class _Hidden(bytes):
    """Octets that say no more than their number to a log."""

    def __format__(self, spec: str) -> str:
        return f"{len(self)} octets"

    def __repr__(self) -> str:
        return f"{len(self)} octets"

    def __str__(self) -> str:
        return f"{len(self)} octets"


class _Payload:
    """What `SendGridAPIClient.send` asks for the message, and python_http_client for its octets."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def get(self) -> _Payload:
        return self

    def encode(self, encoding: str) -> _Hidden:
        return _Hidden(self._text().encode(encoding))


class _Response:
    """What python_http_client wants of urllib."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._status, self._headers, self._body = status, headers, body

    def getcode(self) -> int:
        return self._status

    def info(self) -> Mapping[str, str]:
        return self._headers

    def read(self) -> _Hidden:
        return _Hidden(self._body)


class _Client(python_http_client.Client):  # type: ignore[misc]
    def __init__(self, line: Line, **settings: Any) -> None:
        self._line = line  # before all else: an attribute that is missing would be a part of a URL
        super().__init__(**settings)

    def _build_client(self, name: str | None = None) -> _Client:
        path = [*self._url_path, name] if name else self._url_path
        return _Client(
            self._line, host=self.host, version=self._version, request_headers=self.request_headers, url_path=path
        )

    def _make_request(self, opener: object, request: urllib.request.Request, timeout: object = None) -> _Response:
        return self._line.exchange(request)


# --- a connection with an end to every wait ---------------------------------------------------------------------------


class _Bounded(http.client.HTTPConnection):
    """One deadline for a request and one for its answer, whatever drips in between; an answer of a bounded length."""

    until = 0.0  # of time.monotonic()
    body_octets = 0  # of the request in hand that were given to the system
    _head_left = False

    def begin(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.body_octets, self._head_left = 0, False
        self.response_class = self._bounded_response  # type: ignore[assignment]

    def send(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            self.sock.settimeout(_left(self.until))
            sent = self.sock.send(view[:_PIECE])
            self.body_octets += sent if self._head_left else 0
            view = view[sent:]
        self._head_left = True  # http.client gives the header whole, then the body

    def _bounded_response(self, sock: socket.socket, *arguments: Any, **named: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Incoming(sock, self.until), *arguments, **named)  # type: ignore[arg-type]


class _BoundedTls(_Bounded, http.client.HTTPSConnection):
    pass


class _Incoming(io.RawIOBase):
    """What comes in, until the deadline and up to a number of octets. Stands for the socket before HTTPResponse."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock, self._file, self._until = sock, sock.makefile("rb", buffering=0), until
        self._room = MOST_HEADERS + 2 * MOST_BODY  # chunked coding may double a body

    def makefile(self, mode: str) -> io.BufferedReader:
        return _WholeLines(self, 1 << 13)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._until))
        count = self._file.readinto(buffer)
        self._room -= count or 0
        if self._room < 0:
            raise http.client.HTTPException("an answer without an end")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _WholeLines(io.BufferedReader):
    """http.client takes a header that breaks off for a whole one, so `202` would be believed without its end."""

    _begun = False

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size and (line or self._begun):
            raise http.client.IncompleteRead(line)
        self._begun = True
        return line


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _readable(sock: socket.socket) -> bool:
    """Whether something waits to be read where nothing is expected: mostly the end of the connection."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
