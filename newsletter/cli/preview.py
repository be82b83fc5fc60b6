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
import hashlib
import ipaddress
import json
import os
import re
import secrets
import socketserver
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6
from typing import Literal
from urllib.parse import parse_qsl

from lxml import html as lxml_html
from watchfiles import watch

from newsletter.build import sample_recipient
from newsletter.checks import check_issue
from newsletter.checks.message import CLIPPED_AT
from newsletter.config import FILE, Config, load_config
from newsletter.content.issue import issue_paths
from newsletter.errors import Finding, InputError, Severity, Where
from newsletter.rendering.edition import Edition, Image, filled

READER = "Ana"  # whom @@NAME@@ greets
PORTS = 10  # how many ports are tried, from the one asked for upwards
CHANGED = "preview-changed"  # id of the element that the last save changed first


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
    bell = _Bell()
    proofs = _Proofs(root, issue, bell)
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
    return InputError([_finding(code, "error", Where(path=path) if path else None, message, help)])


def _finding(code: str, severity: Severity, where: Where | None, message: str, help: str) -> Finding:
    return Finding(code=f"preview.{code}", severity=severity, where=where, message=message, help=help)


# --- what there is to show --------------------------------------------------------------------------------------------


class _Bell:
    """Says that something was saved. `revision` differs after each save, and between two runs of the preview."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._run, self._count, self._closed = secrets.token_hex(4), 0, False

    @property
    def revision(self) -> str:
        return f"{self._run}-{self._count}"

    def ring(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: str, timeout: float) -> str | None:
        """The revision once it is another than `seen`, or after `timeout` seconds; None when the preview ends."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self.revision != seen, timeout)
            return None if self._closed else self.revision

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


@dataclass(frozen=True, kw_only=True)
class _Proof:
    """An edition with sample values in its slots, its links and images led to where a frame may follow them."""

    edition: Edition
    html: str
    text: str
    size: int  # bytes of the HTML that a member would get
    preheader: str
    unmarked: str  # html before the place of the last change was marked in it
    digest: str


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One issue at one revision of the files. A language that is `stale` shows the last proof that could be made."""

    revision: str
    issues: tuple[str, ...]  # names to choose from, the newest first
    issue: str  # "" where there is none at all
    file: str
    languages: tuple[str, ...]
    findings: tuple[Finding, ...]
    proofs: Mapping[str, _Proof]
    stale: frozenset[str]

    def as_json(self) -> dict[str, object]:
        findings = [{**finding.as_json(), "place": str(finding.where or "")} for finding in self.findings]
        editions = {
            language: {
                "subject": proof.edition.subject,
                "preheader": proof.preheader,
                "sender": proof.edition.sender.name,
                "address": proof.edition.sender.address,
                "direction": proof.edition.direction,
                "size": proof.size,
                "text": proof.text,
                "digest": proof.digest,
                "stale": language in self.stale,
            }
            for language, proof in self.proofs.items()
        }
        return {
            "revision": self.revision,
            "issues": self.issues,
            "issue": self.issue,
            "file": self.file,
            "languages": self.languages,
            "findings": findings,
            "editions": editions,
            "limit": CLIPPED_AT,
            "changed": CHANGED,
        }


class _Proofs:
    """Looks at issues, each once per revision, and keeps the last proofs that could be made. Safe for threads."""

    def __init__(self, root: Path, given: Path | None, bell: _Bell) -> None:
        self.root, self.bell = root, bell
        self._given, self._first = given, ""
        self._lock = threading.Lock()
        self._known: dict[str, Path] = {}  # every issue seen; a name of a URL is looked up here and is never a path
        self._languages: tuple[str, ...] = ()
        self._looks: dict[str, _Look] = {}
        self._kept: dict[tuple[str, str], _Proof] = {}  # by issue and language

    def first(self) -> str:
        """The file that is shown first, or "" where there is none."""
        return self.look("").file

    def look(self, name: str) -> _Look:
        """The issue of that name, or the first where nobody knows the name."""
        with self._lock:
            revision = self.bell.revision  # taken before anything is read: a later save makes another revision
            if any(look.revision != revision for look in self._looks.values()):
                self._looks.clear()
            names = self._names()
            name = name if name in self._known else self._first or next(iter(names), "")
            if name not in self._looks:
                self._looks[name] = self._examine(name, names if name in names else [*names, name], revision)
            return self._looks[name]

    def image(self, name: str) -> Image | None:
        """An image of the editions kept, by its name."""
        with self._lock:
            images = (image for proof in self._kept.values() for image in proof.edition.images)
            return next((image for image in images if image.name == name), None)

    def _names(self) -> list[str]:
        """The issues there are now, the newest first."""
        paths = {path.stem: path for path in reversed(issue_paths(self.root / "issues"))}
        given = self._given
        if given:
            own = given.resolve().parent == (self.root / "issues").resolve()
            self._first = given.stem if own else str(given)
            self._known[self._first] = given
            paths |= {self._first: given} if given.exists() else {}
        self._known |= paths
        return list(paths)

    def _examine(self, name: str, names: list[str], revision: str) -> _Look:
        findings: tuple[Finding, ...] = ()
        proofs: dict[str, _Proof] = {}
        file = str(self._known.get(name, ""))
        try:
            config = load_config(self.root)
            self._languages = config.languages
            file = config.shown(self._known[name]) if name else ""
            if name and not self._known[name].exists():
                help = "bring it back, or choose another issue"
                findings = (_finding("gone", "error", Where(path=file), "this file is no longer there", help),)
            elif name:
                checked = check_issue(self._known[name], config)
                findings = checked.findings
                for language, edition in checked.editions.items():
                    proofs[language] = _proof(edition, config, self._kept.get((name, language)))
            else:
                help = "`newsletter new` writes one to begin with; this page shows it as soon as it is there"
                findings = (_finding("no-issue", "note", None, "there is no issue in issues/ yet", help),)
        except InputError as error:
            findings = error.findings
        except Exception as error:  # the preview outlives whatever a file, a template or a bug of ours does to it
            message = f"the issue cannot be shown: {type(error).__name__}: {error}".splitlines()[0][:300]
            help = "undo the last change; if that does not help, report this line"
            findings = (_finding("unexpected", "error", Where(path=file) if file else None, message, help),)
        self._kept |= {(name, language): proof for language, proof in proofs.items()}
        shown = {each: self._kept[name, each] for each in self._languages if (name, each) in self._kept}
        return _Look(
            revision=revision,
            issues=tuple(each for each in names if each),
            issue=name,
            file=file,
            languages=self._languages,
            findings=findings,
            proofs=shown,
            stale=frozenset(shown) - frozenset(proofs),
        )


def _proof(edition: Edition, config: Config, before: _Proof | None) -> _Proof:
    html, text = filled(edition, sample_recipient(edition, config, name=READER).slots)
    size = len(html.encode())
    preheader = _preheader(html)
    for image in edition.images:
        for source in (f"{config.base_url}/images/{image.name}", f"cid:{image.name}@newsletter"):
            html = html.replace(source, f"/images/{image.name}")
    html = _LINK.sub(_aimed, html)
    if before and before.unmarked == html:
        marked = before.html
    else:
        marked = mark_change(html, before.unmarked) if before else html
    return _Proof(
        edition=edition,
        html=marked,
        text=text,
        size=size,
        preheader=preheader,
        unmarked=html,
        digest=hashlib.sha256(marked.encode()).hexdigest()[:16],
    )


_FILLER = re.compile("[\u00a0\u00ad\u034f\u200b-\u200f\u2060\ufeff\\s]+")


def _preheader(html: str) -> str:
    """What inboxes show beside the subject: the first words of the body, without the filler that keeps others out."""
    body = lxml_html.document_fromstring(html.encode(), parser=lxml_html.HTMLParser(encoding="utf-8")).find("body")
    words = str(body.xpath("string()")) if body is not None else ""
    return _FILLER.sub(" ", words[:240]).strip()[:140]


_LINK = re.compile(r"""<a\b((?:[^>"']|"[^"]*"|'[^']*')*)>""", re.IGNORECASE)
_TARGET = re.compile(r"""\starget=(?:"[^"]*"|'[^']*'|[^\s>]+)""", re.IGNORECASE)
_INSIDE = re.compile(r"""\shref=["']?#""", re.IGNORECASE)


def _aimed(match: re.Match[str]) -> str:
    """A link that leaves the frame as it is: it opens a tab of its own, or moves within the message."""
    attributes = _TARGET.sub("", match[1])
    return f'<a{attributes} target="{"_self" if _INSIDE.search(attributes) else "_blank"}">'


_PLACE = re.compile(r"<!--.*?-->|<(?P<tag>p|h[1-6]|li|td|blockquote)\b", re.IGNORECASE | re.DOTALL)


def mark_change(html: str, before: str) -> str:
    """The HTML with the id CHANGED on the element in which it first differs from `before`, if there is one for it."""
    at = len(os.path.commonprefix([html, before]))  # noqa: RUF071 - character by character is what is wanted
    places = [match.end() for match in _PLACE.finditer(html) if match["tag"] and match.end() <= at]
    if not places:
        return html
    tag_end = html.find(">", places[-1])
    if re.search(r"\sid=", html[places[-1] : tag_end]):
        return html
    return f'{html[: places[-1]]} id="{CHANGED}"{html[places[-1] :]}'


_STYLE = re.compile(r"<style\b[^>]*>.*?</style>", re.IGNORECASE | re.DOTALL)
_MEDIA = re.compile(rf"{_STYLE.pattern}|<(?:source|link)\b[^>]*>", re.IGNORECASE | re.DOTALL)
_PREFERS = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(dark|light)\s*\)", re.IGNORECASE)
_SCHEMES = re.compile(r'(color-schemes?(?:\s*:\s*|"\s+content="))light\s+dark', re.IGNORECASE)


def as_client(html: str, *, scheme: Literal["light", "dark"], styles: bool) -> str:
    """The HTML as a mail client would show it whose reader prefers `scheme`; without its style sheets if not `styles`.

    A preference for a scheme cannot be given to a frame in every browser, so its media feature is replaced by one that
    is always, or never, true. (`all` would not do: it makes `screen and (prefers-color-scheme: dark)` invalid.)
    """

    def answered(match: re.Match[str]) -> str:
        return "(min-width:0px)" if match[1].lower() == scheme else "(max-width:0px)"

    html = _MEDIA.sub(lambda match: _PREFERS.sub(answered, match[0]), html)
    html = _SCHEMES.sub(rf"\g<1>{scheme}", html)
    html = html if styles else _STYLE.sub("", html)
    # Some of what stands above a change stays in sight. The page leaves room for a scroll bar, so there is always one.
    ours = (
        f"<style>#{CHANGED} {{ scroll-margin-top: 35vh }} html {{ overflow-y: scroll; scrollbar-width: thin }}</style>"
    )
    return html.replace("</head>", f"{ours}</head>", 1)


# --- watching ---------------------------------------------------------------------------------------------------------


class _Watchers:
    """Rings the bell after each save. Folders are watched, not files: many editors save by putting a new file in place.

    One thread watches the workspace's folder itself, not what is below it (a virtual environment, say); the other one
    watches issues/ and templates/ with all they hold, and begins anew when the first sees one of them come or go.
    """

    def __init__(self, root: Path, given: Path | None, bell: _Bell, announce: Callable[[str], None]) -> None:
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

    def __init__(self, address: tuple[str, int], proofs: _Proofs, announce: Callable[[str], None]) -> None:
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


def _bound(host: str, port: int, proofs: _Proofs, announce: Callable[[str], None]) -> _Server:
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
