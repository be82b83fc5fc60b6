"""The pages as a member meets them: a server of its own, asked over HTTP, its mail read in the local inbox."""

from __future__ import annotations

import email
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlencode, urljoin, urlsplit

import click
import lxml.html

import newsletter
from newsletter.config import ENVIRONMENT

PATIENCE = 60.0  # seconds for what must come: a server, a mail


@contextmanager
def serving(root: Path, *, port: int = 0) -> Iterator[str]:
    """The address, without a slash at the end, of `newsletter serve --inbox` for a workspace, while it runs.

    Of this process's environment it gets nothing that belongs to a newsletter. It ends with this process in any case.
    Raises click's exception, with what the server said, when it does not start.
    """
    ours = {variable.name for variable in ENVIRONMENT}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    home = str(Path(newsletter.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH", "")]))
    environment["PYTHONUNBUFFERED"] = "1"
    line = [sys.executable, "-P", "-m", "newsletter.cli.beside", str(os.getpid()), "-w", str(root)]
    with tempfile.TemporaryFile("w+b") as said:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [*line, "serve", "--inbox", "--processes", "1", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            process_group=0,  # Ctrl-C is for us, and then for it
        )
        try:
            yield _announced(process, said)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _announced(process: subprocess.Popen[bytes], said: IO[bytes]) -> str:
    ends = time.monotonic() + PATIENCE
    while True:
        ended = process.poll() is not None or time.monotonic() > ends
        text = os.pread(said.fileno(), 100_000, 0).decode("utf-8", "replace")
        if found := re.search(r"(http://\S+)/ \(", text):
            return found[1]
        if ended:
            raise click.ClickException(f"the pages did not start: {text.strip()}")
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A page as it came back."""

    url: str
    status: int
    body: bytes

    def links(self) -> list[str]:
        return [urljoin(self.url, str(link)) for link in self._tree.xpath("//a/@href")]

    def form(self) -> tuple[str, dict[str, str]]:
        """Where the page's first form goes, and what a browser would send with it. Raises LookupError for none."""
        form = self._tree.forms[0]
        fields = {name: str(value) for name, value in form.form_values() if name}
        return urljoin(self.url, form.action or ""), fields

    @property
    def _tree(self) -> lxml.html.HtmlElement:
        return lxml.html.fromstring(self.body)


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Somebody at a browser that keeps nothing and runs no script, before the pages at `url`, their inbox open."""

    url: str
    language: str

    def get(self, address: str) -> Seen:
        """The page at an address, or at a path of the pages."""
        return self._ask(address, None)

    def post(self, address: str, fields: Mapping[str, str]) -> Seen:
        """What comes back when a form is sent."""
        return self._ask(address, urlencode(fields).encode())

    def press(self, seen: Seen, **typed: str) -> Seen:
        """What comes back when the button of a page is pressed, `typed` written into its fields."""
        address, fields = seen.form()
        return self.post(address, {**fields, **typed})

    def mail(self, to: str, kind: str = "") -> tuple[str, Message] | None:
        """The newest message to an address, with its place in the inbox; None when there is none.

        `kind` is what the name of its file begins with: that of an issue.
        """
        for link in self.get("/inbox/").links():
            place = urlsplit(link).path
            if found := re.search(r"/inbox/([^/]+)/$", place):
                message = email.message_from_bytes(self.get(urljoin(self.url, f"{place}source")).body)
                if found[1].startswith(kind) and to in str(message["To"]):
                    return place, message
        return None

    def awaited(self, to: str, kind: str = "") -> tuple[str, Message]:
        """The same, once it is there. Raises click's exception when none comes."""
        found: list[tuple[str, Message]] = []

        def look() -> bool:
            found.extend(filter(None, [self.mail(to, kind)]))
            return bool(found)

        until(look, "no mail came")
        return found[0]

    def shown(self, place: str) -> Seen:
        """The HTML of a message as the inbox shows it, with links that lead to this server."""
        return self.get(urljoin(self.url, f"{place}html"))

    def _ask(self, address: str, body: bytes | None) -> Seen:
        url = address if address.startswith("http") else f"{self.url}{address}"
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            raise click.ClickException("the pages lead to another server than their own")
        request = urllib.request.Request(url, body, {"Accept-Language": self.language})  # noqa: S310 - http, see above
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
                return Seen(url=answer.url, status=answer.status, body=answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Seen(url=error.url, status=error.code, body=error.read())


def until(true: Callable[[], bool], otherwise: str) -> None:
    """Waits for what must come; raises click's exception when it does not."""
    ends = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > ends:
            raise click.ClickException(f"{otherwise} within {PATIENCE:.0f} seconds")
        time.sleep(0.1)
