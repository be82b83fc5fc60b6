"""What stands between the network and the door: requests are taken in whole before anybody works on them.

An RSGI application (https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md), since with WSGI a form
that arrives an octet at a time holds a thread for as long as its sender likes: measured with granian 2.8, as many such
senders as there are threads, and nobody else is served. Here they hold a socket, and no longer than `BODY_TIME`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Protocol

from newsletter.web.door import LARGEST_BODY, Door, route_of

log = logging.getLogger("newsletter.web")

BODY_TIME = 10.0  # seconds in which a form must have arrived
MOST_WAITING = 1000  # requests of a process that wait for a thread; whoever comes then is asked to come again


Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body."""


class Scope(Protocol):
    """A request as granian tells of it."""

    @property
    def client(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def http_version(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query_string(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Wire(Protocol):
    """The connection that a request came by."""

    def __aiter__(self) -> Any: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


class Front:
    """The application of one server process. `threads` requests are worked on at one time, the others wait."""

    def __init__(self, door: Door, *, threads: int) -> None:
        self._door = door
        self._threads = threads
        self._waiting = 0

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pages")

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pool.shutdown()

    async def __rsgi__(self, scope: Scope, wire: Wire) -> None:
        environ = environ_of(scope)
        try:
            answer = await self._answer(environ, wire)
        except TimeoutError:
            answer = _brief(self._door, 408, "The request took too long to arrive. Nothing was changed.")
        except Exception as error:  # of the door itself: what happens behind it, it answers for
            log.error("%s %s failed", environ["REQUEST_METHOD"], route_of(environ["PATH_INFO"]), exc_info=error)
            answer = _brief(self._door, 500, "Something went wrong on our side. Please try again in a minute.")
        wire.response_bytes(*answer)

    async def _answer(self, environ: dict[str, Any], wire: Wire) -> Answer:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            async with asyncio.timeout(BODY_TIME):
                body = await _body(environ, wire)
            if body is None:
                return _brief(self._door, 400, "The request is not whole. Nothing was changed.")
            environ["wsgi.input"] = BytesIO(body)
        if (ready := self._door.at_hand(environ)) is not None:  # not behind those who wait for the database
            status, headers, whole = ready
            return int(status[:3]), [(name.lower(), value) for name, value in headers], whole
        if self._waiting >= MOST_WAITING:
            return _brief(self._door, 503, "Too many at once. Nothing was changed; please try again in a minute.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, environ)
        finally:
            self._waiting -= 1

    def _ask(self, environ: dict[str, Any]) -> Answer:
        status, headers = 500, list[tuple[str, str]]()

        def start_response(line: str, given: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), [(name.lower(), value) for name, value in given]

        parts: Iterable[bytes] = self._door(environ, start_response)
        try:
            return status, headers, b"".join(parts)
        finally:
            if close := getattr(parts, "close", None):
                close()


async def _body(environ: dict[str, Any], wire: Wire) -> bytes | None:
    """What came with a request: none of it when it is more than the door lets in, None when its end is missing."""
    declared = environ.get("CONTENT_LENGTH", "")
    if declared and (not declared.isdecimal() or int(declared[:12]) > LARGEST_BODY):
        return b""  # the door says what it thinks of it
    body = b""
    async for chunk in wire:
        body += chunk
        if len(body) > LARGEST_BODY:
            break
    if declared and len(body) != int(declared):  # RFC 9112 §8: an incomplete message
        return None
    environ["CONTENT_LENGTH"] = str(len(body))
    return body


def _brief(door: Door, status: int, words: str) -> Answer:
    headers = [(name.lower(), value) for name, value in door.guards.items()]
    headers.append(("content-type", "text/plain; charset=utf-8"))
    if status == 503:
        headers.append(("retry-after", "10"))
    return status, headers, f"{words}\n".encode()


def environ_of(scope: Scope) -> dict[str, Any]:
    """The request as WSGI has it (PEP 3333), for now without a body.

    A header with an underscore in its name is left out: it would pass for another one with a hyphen.
    """
    host, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8", "replace").decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host.strip("[]"),
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
