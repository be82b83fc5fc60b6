"""One page or feed from the web, fetched so that nobody's URL can reach into the machine's own network.

Every name is resolved once, every address it has must be a public one, and the connection goes to that very address, so
that a second answer of the DNS changes nothing. The same holds for each redirect. Sizes, headers and the whole time are
bounded. Proxies of the environment are not used: a proxy would connect for us to addresses that nobody has checked.
"""

from __future__ import annotations

import http.client
import io
import queue
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import idna

from newsletter import __version__
from newsletter.content.prose import MAX_BYTES, refuse
from newsletter.errors import Where

Address = IPv4Address | IPv6Address

# Beyond what `ipaddress` of Python 3.11 calls not global: Azure's metadata and DNS, whose address is a public one;
# IETF protocol assignments (RFC 6890), where Oracle has its metadata; 6to4, given up by RFC 7526, on which Python's own
# answer differs from version to version; site-local addresses (RFC 3879).
_CLOSED = tuple(map(ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "2002::/16")))
# IPv6 addresses that stand for an IPv4 address: NAT64 (RFC 6052, RFC 8215), IPv4-compatible (RFC 4291 §2.5.5.1).
_CARRIERS = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and so does any IPv4 address that is written inside it."""
    closed = any(address in network for network in _CLOSED)  # of another version: not in it
    if closed or not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        # A NAT64 prefix is "reserved" to Python, yet leads wherever its IPv4 address leads.
        return (
            isinstance(address, IPv6Address)
            and address in _CARRIERS[0]
            and is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        )
    return all(map(is_public, _inside(address)))


def _inside(address: Address) -> Iterator[IPv4Address]:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            yield address.ipv4_mapped
        if address.teredo:
            yield from address.teredo
        if any(address in network for network in _CARRIERS):
            yield IPv4Address(int(address) & 0xFFFFFFFF)


def look_up(host: str, port: int) -> list[Address]:
    """Every address of a host, by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a fetch may reach and cost. The defaults are the strict ones; tests let the loopback through."""

    allow: Callable[[Address], bool] = is_public
    look_up: Callable[[str, int], Sequence[Address]] = look_up
    ports: frozenset[int] = frozenset({80, 443})
    seconds: float = 20.0  # for everything together
    redirects: int = 3
    bytes: int = MAX_BYTES  # on the wire, and unpacked
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The body as sent (unpacked), the address it came from at last, and the charset its header names."""

    body: bytes
    url: str
    charset: str = ""


def fetch(url: str, limits: Limits | None = None) -> Fetched:
    """The body behind an http(s) URL. CollectError, saying what to do, where it must not or cannot be had."""
    limits = limits or Limits()
    deadline = time.monotonic() + limits.seconds
    at = url
    try:
        for _ in range(limits.redirects + 1):
            answer = _request(at, limits, deadline)
            if isinstance(answer, Fetched):
                return answer
            at = answer
        raise _No(f"redirects more than {limits.redirects} times", "name the address where it ends")
    except _No as error:
        message, help = str(error), error.help
    except ssl.SSLCertVerificationError as error:
        message, help = f"shows a certificate that cannot be trusted: {error.verify_message}", _BY_HAND
    except TimeoutError:
        message, help = f"did not answer in full within {limits.seconds:g} seconds", f"try again later, or {_BY_HAND}"
    except (OSError, http.client.HTTPException, zlib.error, ValueError) as error:
        message, help = f"cannot be fetched: {error or type(error).__name__}", f"check the address, or {_BY_HAND}"
    via = "" if at == url else f"leads to {at}, which "
    raise refuse("fetch", Where(path=url), f"{via}{message}", help)


_BY_HAND = "save the page in a browser and name the file"


class _No(ValueError):
    """Why something is not fetched, and what to do instead."""

    def __init__(self, message: str, help: str = _BY_HAND) -> None:
        super().__init__(message)
        self.help = help


def _request(url: str, limits: Limits, deadline: float) -> Fetched | str:
    """The answer to one request, or the URL that it redirects to."""
    parts, host, port = _checked(url, limits)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = quote(target, safe="%/:=&?~+!$,;'@()*[]")
    name = f"[{host}]" if ":" in host else host
    with _connect(host, port, parts.scheme == "https", limits, deadline) as connection:
        connection.settimeout(_left(deadline))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\n"
            f"Host: {name if port in (80, 443) else f'{name}:{port}'}\r\n"
            f"User-Agent: newsletter/{__version__}\r\n"
            "Accept: application/feed+json, application/rss+xml, application/atom+xml, text/html, */*;q=0.5\r\n"
            "Accept-Encoding: gzip, deflate\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        with http.client.HTTPResponse(_Stream(connection, deadline), method="GET") as response:  # type: ignore[arg-type]
            response.begin()
            location = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return urljoin(url, location.strip())
            if response.status != 200:
                raise _No(f"answers {response.status} {response.reason[:60]}".strip(), "check the address in a browser")
            body = _body(response, limits)
            return Fetched(body=body, url=url, charset=response.headers.get_content_charset() or "")


def _checked(url: str, limits: Limits) -> tuple[SplitResult, str, int]:
    """The parts, the host in ASCII and the port of a URL that may be asked for."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise _No("holds a blank, a backslash or a control character", "write them as %20 and the like")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except ValueError as error:
        raise _No(f"is no address: {error}", "write https://host/path") from error
    if parts.scheme not in ("http", "https"):
        raise _No("is neither http: nor https:", "write https://host/path, or the name of a file")
    if "@" in parts.netloc:
        raise _No("holds a user name or a password", f"name a page that needs none, or {_BY_HAND}")
    if not host:
        raise _No("names no host", "write https://host/path")
    if port not in limits.ports:
        raise _No(f"is at port {port}; only {' and '.join(map(str, sorted(limits.ports)))} may be asked")
    return parts, host, port


def _connect(host: str, port: int, secure: bool, limits: Limits, deadline: float) -> socket.socket:
    """A connection to an address of the host that has been checked; TLS checks the certificate against the name."""
    found = _look_up(host, port, limits, deadline)
    inner = [address for address in found if not limits.allow(address)]
    if inner or not found:
        # All of them must be public: a name with one address outside and one inside is a trap.
        raise _No(f"is at {inner[0]}, inside a network, and not public" if inner else "has no address")
    error: OSError | None = None
    for address in found:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(deadline))
            connection.connect((str(address), port))
            return limits.tls.wrap_socket(connection, server_hostname=host) if secure else connection
        except ssl.SSLError:
            connection.close()
            raise
        except OSError as failed:
            connection.close()
            error = failed
    raise error or OSError("no address answers")


def _look_up(host: str, port: int, limits: Limits, deadline: float) -> Sequence[Address]:
    """The host's addresses. In a thread of its own, since nothing else ends a resolver that waits."""
    answers: queue.SimpleQueue[Sequence[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(limits.look_up(host, port))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_left(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, socket.gaierror):
        raise _No(f"has a host that cannot be found: {answer.strerror}", "check the address")
    if isinstance(answer, Exception):
        raise answer
    return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Stream(io.RawIOBase):
    """What a connection sends, as a file that ends with the deadline: a timeout of the socket's alone would begin
    anew with every byte of a slow answer."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection, self.deadline = connection, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connection.settimeout(_left(self.deadline))
        return self.connection.recv_into(buffer)


def _body(response: http.client.HTTPResponse, limits: Limits) -> bytes:
    """The whole body, unpacked; never more than `limits.bytes` of either are held."""
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise _No(f"is packed as {encoding[:40]}, which is not read here")
    too_large = _No(f"is larger than {limits.bytes / 1024 / 1024:g} MiB", "name a smaller page, or a feed of it")
    if (response.length or 0) > limits.bytes:
        raise too_large
    packed = bytearray()
    while chunk := response.read(65536):
        packed += chunk
        if len(packed) > limits.bytes:
            raise too_large
    if response.length:
        raise _No("broke off in the middle", f"try again later, or {_BY_HAND}")
    if encoding == "identity" or not packed:
        return bytes(packed)
    body = bytearray()
    rest = bytes(packed)
    while rest:  # a gzip file may have several members
        unpacker = zlib.decompressobj(31 if "gzip" in encoding else 15 if rest[0] & 0x0F == 8 else -15)
        body += unpacker.decompress(rest, limits.bytes + 1 - len(body))
        if len(body) > limits.bytes:
            raise too_large
        if not unpacker.eof:
            raise _No("broke off in the middle", f"try again later, or {_BY_HAND}")
        rest = unpacker.unused_data if "gzip" in encoding else b""
        rest = rest if rest.startswith(b"\x1f\x8b") else b""
    return bytes(body)
