"""The door in front of Django: a WSGI application that lets in what is small enough and sends nothing out unguarded.

It knows the path of base_url, the visitor's network behind reverse proxies, what lies on the shelf ready to be handed
out (shelf.py: the archive, pictures, style), and what every answer must carry. Whatever goes wrong behind it becomes a
page that says so; logs name the route, never an address or a token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, cast
from urllib.parse import urlsplit

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.db import Error, close_old_connections, connection
from django.http import UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.utils.http import parse_header_parameters
from whitenoise import WhiteNoise

from newsletter.store.schema import database_down
from newsletter.web import shelf
from newsletter.web.site import HERE, Site
from newsletter.web.words import Words, wished, words_for

log = logging.getLogger("newsletter.web")
logging.getLogger("django.request").setLevel(logging.CRITICAL)  # it names paths of every 4xx, and so tokens

LARGEST_BODY = 64 * 1024  # octets; the largest form of ours has 5,000
LONGEST_PATH = 2048
MOST_FIELDS = 50  # of a query; Django refuses more than a hundred where nobody catches it
NETWORK = "newsletter.network"  # the key of the visitor's network in a request's environment

StartResponse = Callable[..., Any]
Environ = dict[str, Any]
Handed = tuple[str, list[tuple[str, str]], bytes]  # status, headers and body of an answer
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

# Own pages: nothing but our own files, no script that is written into a page, never in somebody's frame.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; worker-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
GUARDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for what does not know frame-ancestors
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = ("Strict-Transport-Security", "max-age=31536000")


class Door:
    """The WSGI application of one server process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._behind = _static_files(_Django())
        self._shelf = shelf.Shelf(site)
        self._trusted = [ip_network(each) for each in site.config.web.proxies]
        # What an answer carries that says nothing else for itself.
        self.guards = {**GUARDS, "Cache-Control": "no-store"}
        if urlsplit(site.config.base_url).scheme == "https":
            self.guards.update([HSTS])

    @property
    def prefix(self) -> str:
        """The path of base_url, "" or "/news"."""
        return self._site.prefix

    def at_hand(self, environ: Environ) -> Handed | None:
        """The answer, if it lies ready: it takes microseconds and waits for nothing."""
        path: str = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") or not path.startswith(f"{self.prefix}/"):
            return None
        ready = self._shelf.at_hand(path[len(self.prefix) :], environ)
        return self._handed(environ, ready) if ready else None

    def _handed(self, environ: Environ, ready: shelf.Ready) -> Handed:
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else ready.body
        return ready.status, [*self._guarded(ready.headers), *ready.headers.items()], body

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["REQUEST_METHOD"].isupper():  # case counts (RFC 9110 §9.1), and Django would not let it
            allow = {"Allow": "GET, HEAD, POST"}
            return self._say(environ, start_response, "405 Method Not Allowed", "not_allowed", allow)
        path, prefix = environ.get("PATH_INFO", ""), self._site.prefix
        if prefix:
            if path != prefix and not path.startswith(f"{prefix}/"):
                return self._say(environ, start_response, "404 Not Found", "dead_link")
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = prefix, path[len(prefix) :] or "/"
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") and (ready := self._shelf.find(environ)):
            status, headers, body = self._handed(environ, ready)
            start_response(status, headers)
            return [body]
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            length = -1
        query = environ.get("QUERY_STRING", "")
        large = len(path) > LONGEST_PATH or len(query) > LONGEST_PATH or query.count("&") >= MOST_FIELDS
        if large or not 0 <= length <= LARGEST_BODY:
            return self._say(environ, start_response, "413 Content Too Large", "too_large")
        environ[NETWORK] = network_of(environ, self._trusted)
        try:
            return self._behind(environ, self._guarding(start_response))
        except Exception as error:  # Django lets it through: DEBUG_PROPAGATE_EXCEPTIONS
            return self._failed(environ, start_response, error)

    def _guarding(self, start_response: StartResponse) -> StartResponse:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*self._guarded(dict(headers)), *headers])

        return start

    def _guarded(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """What an answer does not say for itself."""
        return [(name, value) for name, value in self.guards.items() if name not in headers]

    def _failed(self, environ: Environ, start_response: StartResponse, error: Exception) -> Iterable[bytes]:
        down = database_down(error)
        where = f"{environ['REQUEST_METHOD']} {route_of(environ['PATH_INFO'])}"
        if down is not None:
            log.error("%s: %s", where, down)
        else:
            log.error("%s failed", where, exc_info=error)
        if isinstance(error, Error):
            connection.close()  # whatever is the matter with it, the next request gets a new one
        close_old_connections()
        if down is not None:
            return self._say(environ, start_response, "503 Service Unavailable", "busy", {"Retry-After": "10"})
        return self._say(environ, start_response, "500 Internal Server Error", "error")

    def _say(
        self,
        environ: Environ,
        start_response: StartResponse,
        status: str,
        key: str,
        more: Mapping[str, str] | None = None,
    ) -> Iterable[bytes]:
        """A page that says one thing, made without Django and the database."""
        offered = self._site.config.languages
        words = words_for(wished(environ.get("HTTP_ACCEPT_LANGUAGE", ""), offered) or offered[0])
        body = _plain_page(self._site, words, key).encode()
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **(more or {}),
        }
        start_response(status, [*self._guarded(headers), *headers.items()])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Request(WSGIRequest):
    """A request whose form is in UTF-8, as our pages are, whatever it says of itself, and without a field where it
    cannot be read: then the page says what is missing, in the visitor's language."""

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        # Without Django's regard for a charset: with idna the form, and the query too, would be a fault.
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))

    def _load_post_and_files(self) -> None:
        try:
            super()._load_post_and_files()
        except (BadRequest, SuspiciousOperation, MultiPartParserError, UnreadablePostError, ValueError):
            self._mark_post_parse_error()  # type: ignore[attr-defined] # Django's: an empty form


class _Django(WSGIHandler):
    request_class = _Request


def _static_files(application: Application) -> Application:
    """The files of static/ in front of an application. Pages name them with a hash of their content behind a question
    mark, so they are kept for ever. Not the style sheet: it is whole only with the workspace's colours before it."""
    served = WhiteNoise(application, allow_all_origins=False, immutable_file_test=lambda path, url: True)
    for path in (HERE / "static").iterdir():
        if path.name != "pages.css":
            served.add_file_to_dictionary(f"/static/{path.name}", str(path))
    return cast("Application", served)


def _plain_page(site: Site, words: Words, key: str) -> str:
    template = site.pages.get_template("plain.html")
    return template.render(words=words, key=key, site=site, title=site.text(site.config.title, words.language))


def network_of(environ: Mapping[str, Any], trusted: Iterable[IPv4Network | IPv6Network]) -> str:
    """The network that a visitor comes from, an IPv4 /24 or an IPv6 /48, "" where it is not known. The address itself
    goes no further than this.

    A trusted proxy's X-Forwarded-For is read from its end, past further trusted proxies. Of a long one the end counts:
    its beginning is the visitor's own words.
    """
    trusted = list(trusted)
    hops = [environ.get("REMOTE_ADDR", "")]
    hops += [hop.strip() for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "")[-1000:].split(","))]
    visitor = None
    for hop in hops:
        try:
            address = ip_address(hop.strip("[]"))
        except ValueError:
            break
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        visitor = address
        if not any(address in network for network in trusted):
            break
    if visitor is None:
        return ""
    return str(ip_network((visitor, 24 if visitor.version == 4 else 48), strict=False))


_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9]{1,16}|[^/]{40,}|[^/]*@[^/]*")
_UNSHOWN = re.compile(r"[^\x21-\x7e…]")


def route_of(path: str) -> str:
    """A path as logs may keep it: without tokens and addresses in it, and on one line."""
    return _UNSHOWN.sub("?", _TOKEN.sub("…", path))[:200]
