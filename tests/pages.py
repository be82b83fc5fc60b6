"""The pages asked in this process, through the door, as a server would: every answer whole, with its headers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

from lxml import etree, html

from newsletter.config import Config


def parsed_xml(body: bytes) -> Any:
    """An XML document for `xpath`, whose results lxml's stubs call anything at all."""
    return etree.fromstring(body)


def parsed_html(text: str) -> Any:
    """The same of a page."""
    return html.fromstring(text)


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    body: bytes


class Pages:
    """The pages of a workspace. Its database must be ready (fixture `store`)."""

    def __init__(self, config: Config, **options: Any) -> None:
        from newsletter.web.door import Door
        from newsletter.web.site import load_site, use

        self.site = load_site(config, **options)
        use(self.site)
        self._door = Door(self.site)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, b"", "", **headers)

    def post(self, path: str, form: Mapping[str, Any] | None = None, **headers: str) -> Answer:
        """A form as a browser posts it; a value may be a list."""
        body = urlencode(form or {}, doseq=True).encode()
        return self.ask("POST", path, body, "application/x-www-form-urlencoded", **headers)

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "", /, **headers: str) -> Answer:
        """`headers` by their names with underscores: `accept_language="es"`, `remote_addr="192.0.2.7"`."""
        path, _, query = path.partition("?")
        started: list[Any] = []

        def start_response(status: str, given: list[tuple[str, str]], exc_info: Any = None) -> None:
            started[:] = [status, given]

        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "news.example.org",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": headers.pop("remote_addr", "127.0.0.1"),
            "CONTENT_LENGTH": headers.pop("content_length", str(len(body))),
            "CONTENT_TYPE": content_type,
            "HTTP_HOST": headers.pop("host", "news.example.org"),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }
        parts = self._door(environ, start_response)
        content = b"".join(parts)
        if close := getattr(parts, "close", None):
            close()
        status, given = started
        names = [name.lower() for name, _ in given]
        assert len(set(names)) == len(names), f"a header twice: {sorted(names)}"
        return Answer(
            status=int(status.split()[0]),
            headers={name.lower(): value for name, value in given},
            text=content.decode("utf-8", "replace"),
            body=content,
        )
