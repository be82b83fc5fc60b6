"""The preview: a local page that shows an issue as readers will get it, with the problems found, and follows saves.

A small server for one machine. It listens on a loopback address only, answers GET and HEAD only, and only to a Host
that names it (else a web page elsewhere could read an unsent issue through a DNS name of its own that points here).
Whatever the files of the workspace hold, it goes on: what is wrong becomes findings on the page, above the last
rendering that succeeded.

The page (preview.html, .css, .js) asks `/state` what there is to show, puts `/message` into frames, and hears of saves
from `/events`. The frames are sandboxed without script and without an origin. Therefore nobody can read or set how far
they are scrolled, and a frame that loads anew would begin at the top (measured in Chromium, for a new src as for a
reload of the whole page). Instead the element that a save changed first gets an id, and the frame opens there.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socketserver
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6
from typing import Literal
from urllib.parse import parse_qsl

from watchfiles import watch

from newsletter.cli.proofs import Bell, Proofs, as_client, finding
from newsletter.config import FILE
from newsletter.errors import InputError, Where

PORTS = 10  # how many ports are tried, from the one asked for upwards


def serve_preview(
    root: Path,
    issue: Path | None,
    *,
    host: str = "127.0.0.1",
    port: int = 8025,
    open_browser: bool = False,
    announce: Callable[[str], None],
) -> None:
    """Serves the preview of a workspace until Ctrl-C, beginning with `issue`, or else with the newest.

    Raises InputError for a host that is not a loopback address, for an issue file that is not there, and where no port
    is free from `port` on. `announce` gets plain lines for the terminal.
    """
    try:
        with running_preview(root, issue, host=host, port=port, announce=announce) as url:
            if open_browser:  # in a thread of its own: a text browser does not come back
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
            threading.Event().wait()
    except KeyboardInterrupt:
        announce("Preview ended.")


@contextmanager
def running_preview(
    root: Path, issue: Path | None, *, host: str = "127.0.0.1", port: int = 0, announce: Callable[[str], None]
) -> Iterator[str]:
    """The address of a preview that runs while the context is open; port 0 takes any that is free.

    Raises what `serve_preview` does.
    """
    if issue and not issue.is_file():
        raise _no("no-file", "there is no such file", "name an issue file, or none for the newest", str(issue))
    bell = Bell()
    proofs = Proofs(root, issue, bell)
    with _bound(host, port, proofs, announce) as server:
        watchers = _Watchers(root, issue, bell, announce)
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="preview")
        serving.start()
        try:
            name = f"[{host}]" if ":" in host else host
            url = f"http://{name}:{server.server_port}/"
            announce(f"Preview of {proofs.first() or 'issues/, which has no issue yet'}: {url} (Ctrl-C ends it)")
            yield url
        finally:
            bell.close()
            watchers.close()
            server.shutdown()
            serving.join()


def _no(code: str, message: str, help: str, path: str = "") -> InputError:
    return InputError([finding(code, "error", Where(path=path) if path else None, message, help)])


# --- watching ---------------------------------------------------------------------------------------------------------


class _Watchers:
    """Rings the bell after each save. Folders are watched, not files: many editors save by putting a new file in place.

    One thread watches the workspace's folder itself, not what is below it (a virtual environment, say); the other one
    watches issues/ and templates/ with all they hold, and begins anew when the first sees one of them come or go.
    """

    def __init__(self, root: Path, given: Path | None, bell: Bell, announce: Callable[[str], None]) -> None:
        self._bell, self._announce = bell, announce
        self._stop, self._again = threading.Event(), threading.Event()
        self._top = {root, given.parent} if given else {root}
        self._trees = {root / "issues", root / "templates"} | ({given.with_suffix("")} if given else set())
        self._names = {FILE, ".env", "blocks.yaml", *(each.name for each in (*self._trees, given) if each)}
        self._polling: bool | None = None
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._watch_top, self._watch_trees)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        self._again.set()
        for thread in self._threads:
            thread.join()

    def _watch_top(self) -> None:
        while not self._stop.is_set():
            for names in self._changes(self._top, self._stop, recursive=False):
                if not names or names & self._names:
                    self._bell.ring()
                if names & {each.name for each in self._trees}:
                    self._again.set()
            self._stop.wait(0.5)

    def _watch_trees(self) -> None:
        while True:
            self._again.clear()
            if self._stop.is_set():  # asked only now, or a `close` before the line above would be missed
                return
            for _ in self._changes(self._trees, self._again, recursive=True):
                self._bell.ring()
            self._again.wait(0.5 if any(each.is_dir() for each in self._trees) else None)

    def _changes(self, folders: set[Path], stop: threading.Event, *, recursive: bool) -> Iterator[set[str]]:
        """Names of what changed, until `stop`. First an empty set when watching begins: earlier saves were missed."""
        there = [each for each in folders if each.is_dir()]
        if not there:
            return
        begun = False
        try:
            for changes in watch(
                *there,
                watch_filter=None,
                debounce=150,  # milliseconds, as the next two
                step=30,
                rust_timeout=100,
                yield_on_timeout=True,
                stop_event=stop,
                raise_interrupt=False,
                force_polling=self._polling,
                recursive=recursive,
                ignore_permission_denied=True,
            ):
                if not begun:
                    begun = True
                    yield set()
                names = {Path(path).name for _, path in changes}
                names = {name for name in names if name == ".env" or not (name.startswith(".") or name.endswith("~"))}
                if names:
                    yield names
        except Exception as error:  # a folder that has just gone, or a system that has no watches left
            if not isinstance(error, (FileNotFoundError, PermissionError)) and not self._polling:
                self._polling = True
                self._announce(
                    "The system has no file watches left: looking at the files a few times a second instead."
                )


# --- serving ----------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would share a port that is taken

    def __init__(self, address: tuple[str, int], proofs: Proofs, announce: Callable[[str], None]) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else self.address_family
        super().__init__(address, _Request)
        self.proofs, self.announce = proofs, announce
        hosts = {"127.0.0.1", "localhost", "[::1]", f"[{address[0]}]" if ":" in address[0] else address[0]}
        self.names = {f"{host}:{self.server_port}" for host in hosts} | (hosts if self.server_port == 80 else set())
        folder = Path(__file__).parent
        self.files = {name: (folder / name).read_bytes() for name in ("preview.html", "preview.css", "preview.js")}

    def server_bind(self) -> None:
        """Without the name look-up of HTTPServer, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a browser that hangs up is no news, and what fails in a request is announced there."""


def _bound(host: str, port: int, proofs: Proofs, announce: Callable[[str], None]) -> _Server:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        help = "use 127.0.0.1; `newsletter build` makes files that you can send to somebody else"
        raise _no("host", f"{host}: the preview is for this machine only", help)
    reason = ""
    for each in range(port, port + PORTS if port else 1):
        try:
            server = _Server(("127.0.0.1" if host == "localhost" else host, each), proofs, announce)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if getattr(error, "errno", 0) != errno.EADDRINUSE:
                break
        else:
            if port and each != port:
                announce(f"Port {port} is taken; using {each}.")
            return server
    raise _no("port", f"port {port} of {host} cannot be used: {reason}", "name another: --port 8100")


_REST = "base-uri 'none'; form-action 'none'; frame-ancestors"
_NOTHING = f"default-src 'none'; {_REST} 'none'"
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    f"{_REST} 'none'"
)
_FRAME = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'"
_MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_TEXT, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"


class _Request(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "newsletter", ""
    timeout = 20  # seconds for a request to arrive

    def parse_request(self) -> bool:
        """The gate that every request passes, whatever its method."""
        if not super().parse_request():
            return False
        refusal = self._refusal()
        if refusal:
            self.send_error(*refusal)
        return not refusal

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        if self.command not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are answered."
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.names:
            return HTTPStatus.MISDIRECTED_REQUEST, "This is not the name of the preview: use the address it printed."
        if len(self.path) > 2000:
            return HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long."
        # A page elsewhere may link to the preview. A sandboxed frame has no origin: its images come as from elsewhere.
        path, use = self.path.partition("?")[0], self.headers.get("Sec-Fetch-Dest", "")
        link = path == "/" and use == "document"
        image = path.startswith("/images/") and use == "image"
        site = self.headers.get("Sec-Fetch-Site", "none")
        own = [None, *(f"http://{name}" for name in self.server.names), *(["null"] if image else [])]
        if self.headers.get("Origin") not in own or (site not in ("none", "same-origin") and not link and not image):
            return HTTPStatus.FORBIDDEN, "Another site asked for this; only the preview's own page may."
        return None

    def do_GET(self) -> None:
        try:
            self._route()
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:
            self.server.announce(f"The preview failed on one request: {type(error).__name__}: {error}")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "The preview failed; the terminal says why.")

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def _route(self) -> None:
        path, _, rest = self.path.partition("?")
        query = dict(parse_qsl(rest))
        issue = query.get("issue", "")
        if path == "/":
            state = json.dumps(self.server.proofs.look(issue).as_json()).replace("<", "\\u003c")
            page = self.server.files["preview.html"].replace(b'"STATE"', state.encode(), 1)
            self._answer(page, _HTML, policy=_PAGE)
        elif path in ("/preview.css", "/preview.js"):
            self._answer(self.server.files[path[1:]], _MEDIA_TYPES[path.rpartition(".")[2]])
        elif path == "/state":
            self._answer(json.dumps(self.server.proofs.look(issue).as_json()).encode(), "application/json")
        elif path == "/message":
            self._message(issue, query)
        elif path == "/events":
            self._events()
        elif path.startswith("/images/"):
            image = self.server.proofs.image(path.removeprefix("/images/"))
            if image:
                self._answer(image.content, image.media_type)
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "No edition shown here has this image.")
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "There is nothing here. The preview is at /.")

    def _message(self, issue: str, query: Mapping[str, str]) -> None:
        proof = self.server.proofs.look(issue).proofs.get(query.get("language", ""))
        if proof is None:
            self.send_error(HTTPStatus.NOT_FOUND, "There is no such edition.")
            return
        scheme: Literal["light", "dark"] = "dark" if query.get("scheme") == "dark" else "light"
        html = as_client(proof.html, scheme=scheme, styles=query.get("styles") != "off")
        images = "'none'" if query.get("images") == "off" else f"http://{self.headers['Host']}/images/"
        self._answer(html.encode(), _HTML, policy=f"{_FRAME}; img-src {images}; {_REST} 'self'")

    def _events(self) -> None:
        """The revision, now and after each save, as server-sent events (HTML standard, section 9.2)."""
        self._head(HTTPStatus.OK, "text/event-stream", _NOTHING)
        if self.command == "HEAD":
            return
        self.wfile.write(b"retry: 1000\n\n")
        seen = ""
        while (revision := self.server.proofs.bell.wait(seen, 10)) is not None:
            # A comment line now and then finds out whether anybody listens still.
            self.wfile.write(b": \n\n" if revision == seen else f"data: {revision}\n\n".encode())
            seen = revision

    def _answer(
        self, body: bytes, media_type: str, *, policy: str = _NOTHING, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self._head(status, media_type, policy, length=len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, media_type: str, policy: str, *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A short plain text, headed like everything else; the base class tells of broken requests by it too."""
        status = HTTPStatus(code)
        self.close_connection = True
        self._answer(f"{message or status.phrase}\n".encode(), _TEXT, status=status)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for the editor."""
