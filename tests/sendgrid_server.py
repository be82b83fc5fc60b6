"""A server on this machine that answers as SendGrid's /v3/mail/send does, strictly, or as a script says.

    with SendgridServer(script=[Reply(status=429)]) as server:      the first request is answered so, others as usual
        provider = SendgridProvider(Sendgrid(key=server.key), host=server.url)
        …
        server.accepted                                             custom_args.d of everybody who was taken, in order

As usual means: 401 without the key; 400 for what the vendor's own OpenAPI file (`openapi_file`) or the rules that it
lacks do not allow; 200 in sandbox mode; else 202 with an X-Message-Id. As a program of its own it appends who was taken
to a file, a line each (key TAB address), before it answers:

    PYTHONPATH=tests python -m sendgrid_server --port 0 --log FILE --delay 0.15 [--no-validate]     prints its port
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

Cut = Literal["", "before-reading", "mid-body", "after-body", "mid-head", "mid-answer", "reset-after-body"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer of the script. `status` 0: the usual answer, under the other circumstances that are named here."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | dict[str, Any] = b""
    raw: bytes | None = None  # in place of status, headers and body
    delay: float = 0.0  # seconds before the answer
    hang: bool = False  # no answer until the server stops
    drip: float = 0.0  # seconds between two octets of the answer
    cut: Cut = ""  # where the connection ends
    close: bool = False  # close the connection after the answer, without announcing it


def refusal(message: str, field: str | None = None, *, status: int = 400) -> Reply:
    """An error answer of SendGrid's form."""
    return Reply(status=status, body={"errors": [{"message": message, "field": field, "help": None}]})


# A function gets the body of each request once it was read, so it cannot cut a connection before that.
Script = Sequence[Reply | None] | Callable[[dict[str, Any]], Reply | None]


class SendgridServer:
    """Use as a context manager. `script` is a list for one request after the other, or is asked each time."""

    def __init__(
        self,
        script: Script = (),
        *,
        key: str = "SG.test-key",
        delay: float = 0.0,
        validate: bool = True,
        log: Path | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        keep: bool = True,
    ) -> None:
        self.key, self.delay, self.validate, self.keep = key, delay, validate, keep
        self.accepted: list[str] = []
        self.requests: list[dict[str, Any]] = []  # bodies as they came, of those that were read whole
        self.heads: list[dict[str, str]] = []
        self.messages: list[tuple[dict[str, Any], dict[str, Any]]] = []  # request and personalization of each taken
        self.connections = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.script, self._asked = script, 0
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if log else -1
        self._open: set[socket.socket] = set()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = _Http(("127.0.0.1", port), Handler)
        self._tls = tls
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> SendgridServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes everything; afterwards connections are refused."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self.drop_connections()
        if self._log >= 0:
            os.close(self._log)

    def drop_connections(self) -> None:
        """Closes those that are open, as a server does with idle ones."""
        with self.lock:
            for each in self._open:
                with _Quiet():
                    each.shutdown(socket.SHUT_RDWR)

    def wait_until_closed(self) -> None:
        """Until no connection is open any more."""
        for _ in range(1000):
            with self.lock:
                if not self._open:
                    return
            time.sleep(0.01)
        raise AssertionError("a connection stayed open")

    def delivered(self) -> list[bytes]:
        """Every message that was taken, as SendGrid might build it."""
        with self.lock:
            return [built(request, personalization) for request, personalization in self.messages]

    def listed(self) -> Reply | None:
        """What a list of answers has for the next request."""
        with self.lock:
            self._asked += 1
            if callable(self.script):
                return None
            return self.script[self._asked - 1] if self._asked <= len(self.script) else None

    def take(self, request: dict[str, Any]) -> None:
        keys = [str(each["custom_args"]["d"]) for each in request["personalizations"]]
        self.note(
            [
                f"{key}\t{each['to'][0]['email']}".encode()
                for key, each in zip(keys, request["personalizations"], strict=True)
            ]
        )
        with self.lock:
            if self.keep:
                self.accepted += keys
                self.messages += [(request, each) for each in request["personalizations"]]

    def note(self, lines: list[bytes]) -> None:
        """Writes down who is taken, in one stroke, before the answer."""
        if self._log >= 0 and lines:
            os.write(self._log, b"\n".join([*lines, b""]))


class _Quiet:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, OSError)


_DELIVERY = re.compile(rb'"custom_args": ?\{"d": ?"([^"]+)"\}')
_RECIPIENT = re.compile(rb'"to": ?\[\{"email": ?"([^"]+)"')


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server_of: SendgridServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()
        with self.server_of.lock:
            self.server_of.connections += 1
            self.server_of._open.add(self.connection)

    def finish(self) -> None:
        with self.server_of.lock:
            self.server_of._open.discard(self.connection)
        with _Quiet():
            super().finish()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: tests look at what was taken."""

    def do_POST(self) -> None:
        server = self.server_of
        reply = server.listed()
        if reply and reply.cut == "before-reading":
            self._end(reset=False)
            return
        length = int(self.headers.get("Content-Length", "-1"))
        if reply and reply.cut == "mid-body":
            self.rfile.read(min(length, 1000))
            self._end(reset=True)
            return
        content = self.rfile.read(length)
        if len(content) < length:
            self.close_connection = True
            return
        if not (server.validate or server.keep or server.script):  # for benchmarks: as little work as can be
            pairs = zip(_DELIVERY.findall(content), _RECIPIENT.findall(content), strict=True)
            server.note([b"%b\t%b" % pair for pair in pairs])
            server.stopping.wait(server.delay)  # whoever dies meanwhile does not know that they were taken
            self._answer(_written(202, {"X-Message-Id": f"id{time.monotonic_ns():x}"}, b""), Reply())
            return
        try:
            request = json.loads(content)
        except ValueError:
            request = {}
        with server.lock:
            if server.keep:
                server.requests.append(request)
                server.heads.append(dict(self.headers.items()))
        if callable(server.script):
            reply = server.script(request)
        reply = reply or Reply()
        if reply.cut in ("after-body", "reset-after-body"):
            self._end(reset=reply.cut == "reset-after-body")
            return
        if reply.hang:
            server.stopping.wait()
            self._end(reset=False)
            return
        server.stopping.wait(reply.delay or server.delay)
        raw = reply.raw
        if raw is None:
            if reply.status:
                status, headers, body = reply.status, reply.headers, reply.body
            else:
                status, headers, body = self._usual(content, request)
                headers = {**headers, **reply.headers}
            raw = _written(status, headers, body)
        self._answer(raw, reply)

    do_GET = do_POST  # noqa: N815

    def _usual(self, content: bytes, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes | dict[str, Any]]:
        server = self.server_of
        if self.path != "/v3/mail/send":
            return 404, {}, {"errors": [{"message": "not found", "field": None}]}
        if self.command != "POST":
            return 405, {}, {"errors": [{"message": "method not allowed", "field": None}]}
        if self.headers.get("Authorization") != f"Bearer {server.key}":
            return 401, {}, {"errors": [{"message": "The provided authorization grant is invalid", "field": None}]}
        if self.headers.get_content_type() != "application/json":
            return 415, {}, {"errors": [{"message": "Content-Type should be application/json", "field": None}]}
        if len(content) >= 30_000_000:
            return 413, {}, {"errors": [{"message": "The JSON payload is too large", "field": None}]}
        if server.validate and (faults := [*schema_faults(content, self.headers), *rule_faults(request)]):
            return 400, {}, {"errors": [{"message": message, "field": field} for field, message in faults]}
        if (request.get("mail_settings") or {}).get("sandbox_mode", {}).get("enable"):
            return 200, {}, b""
        server.take(request)
        return 202, {"X-Message-Id": f"id{time.monotonic_ns():x}"}, b""

    def _answer(self, raw: bytes, reply: Reply) -> None:
        if reply.cut == "mid-head":
            raw = raw[:20]
        elif reply.cut == "mid-answer":
            raw = raw[:-1]
        if reply.drip:
            for octet in raw:
                if self.server_of.stopping.wait(reply.drip):
                    break
                self.wfile.write(bytes([octet]))
                self.wfile.flush()
        else:
            self.wfile.write(raw)
            self.wfile.flush()
        if reply.cut or reply.close:
            self._end(reset=False)

    def _end(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with _Quiet():
            if not reset:
                self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def _written(status: int, headers: dict[str, str], body: bytes | dict[str, Any]) -> bytes:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    lines = {"Server": "nginx", "Content-Length": str(len(content)), **headers}
    if isinstance(body, dict):
        lines = {"Content-Type": "application/json", **lines}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Whatever')}\r\n{head}\r\n".encode("latin-1") + content


_REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


# --- what the vendor's file says --------------------------------------------------------------------------------------

FILE = "tsg_mail_v3.json"


def openapi_file() -> Path | None:
    """The vendor's OpenAPI file of the mail API (repository twilio/sendgrid-oai), if it is on this machine: named by
    NEWSLETTER_SENDGRID_OPENAPI (the file or its folder), or in ../shared/data/sendgrid-openapi."""
    named = os.environ.get("NEWSLETTER_SENDGRID_OPENAPI")
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "sendgrid-openapi"
    path = path / FILE if path.is_dir() else path
    return path if path.is_file() else None


@lru_cache(maxsize=1)
def _openapi() -> Any:
    from openapi_core import OpenAPI

    path = openapi_file()
    return OpenAPI.from_dict(_closed(json.loads(path.read_text("utf-8")))) if path else None


def _closed(node: Any) -> Any:
    """The same schemas, in which an object may hold no members but those that are named: the file lets all pass."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(each) for name, each in node.items()}
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def schema_faults(content: bytes, headers: Any) -> list[tuple[str | None, str]]:
    """What the vendor's file has against a request, as field and message. Nothing without the file."""
    from openapi_core.datatypes import RequestParameters
    from openapi_core.exceptions import OpenAPIError

    api = _openapi()
    if api is None:
        return []

    class Request:
        host_url, path, full_url_pattern = "https://api.sendgrid.com", "/v3/mail/send", "/v3/mail/send"
        method, content_type, body = "post", "application/json", content
        parameters = RequestParameters(header=dict(headers.items()))

    try:
        api.validate_request(Request())
    except OpenAPIError as error:
        cause: Any = error.__cause__ or error
        details = getattr(cause, "schema_errors", None) or [cause]
        return [(".".join(map(str, getattr(each, "absolute_path", ()))) or None, str(each)[:300]) for each in details]
    return []


# --- what the file does not say ---------------------------------------------------------------------------------------

_OF_MIME = ("content-type", "content-transfer-encoding")
RESERVED = frozenset(
    ("x-sg-id", "x-sg-eid", "received", "dkim-signature", "to", "from", "subject", "reply-to", "cc", "bcc", *_OF_MIME)
)
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_ADDRESS = re.compile(r"[^\s@\"<>(),;:\\\[\]\x00-\x20\x7f-\U0010ffff]+@[a-z0-9.-]+")


def rule_faults(request: dict[str, Any]) -> list[tuple[str | None, str]]:
    """What SendGrid's pages forbid (STANDARDS: limits, errors, limitations), as field and message."""
    faults: list[tuple[str | None, str]] = []
    counted: Counter[str] = Counter()
    if not request.get("personalizations"):
        return [("personalizations", "The personalizations field is required and must have at least one.")]
    if not _ADDRESS.fullmatch(request["from"]["email"]):
        faults.append(("from.email", "The from email does not contain a valid address."))
    _header_faults(request.get("headers", {}), "headers", faults)
    for number, each in enumerate(request["personalizations"]):
        place = f"personalizations.{number}"
        if not each.get("to"):
            faults.append((f"{place}.to", "The to array is required for all personalization objects."))
        for at, mailbox in enumerate(each.get("to", [])):
            counted[mailbox["email"].lower()] += 1
            if not _ADDRESS.fullmatch(mailbox["email"]):
                faults.append((f"{place}.to.{at}.email", "Does not contain a valid address."))
            if re.search("[;,]", mailbox.get("name", "")) or _CONTROL.search(mailbox.get("name", "")):
                faults.append((f"{place}.to.{at}.name", "Does not contain a valid name."))
        values = each.get("substitutions", {})
        if sum(len(name.encode()) + len(str(value).encode()) for name, value in values.items()) > 10_000:
            faults.append((f"{place}.substitutions", "The substitutions are larger than 10000 bytes."))
        if len(json.dumps(each.get("custom_args", {}))) > 10_000:
            faults.append((f"{place}.custom_args", "The custom_args are larger than 10000 bytes."))
        _header_faults(each.get("headers", {}), f"{place}.headers", faults)
    if any(count > 1 for count in counted.values()):
        message = "Each email address in the personalization block should be unique between to, cc, and bcc."
        faults.append(("personalizations", message))
    if counted.total() > 1000:
        faults.append(("personalizations", "There are more than 1000 recipients."))
    return faults


def _header_faults(headers: dict[str, Any], place: str, faults: list[tuple[str | None, str]]) -> None:
    for name, value in headers.items():
        if name.lower() in RESERVED or not re.fullmatch(r"[!-9;-~]+", name):
            faults.append((f"{place}.{name}", "The header is not allowed."))
        if not isinstance(value, str) or _CONTROL.search(value):
            faults.append((f"{place}.{name}", "Headers are strings without line ends."))


# --- what the recipient gets ------------------------------------------------------------------------------------------


def substituted(text: str, values: dict[str, str]) -> str:
    for tag, value in values.items():
        text = text.replace(tag, value)
    return text


def built(request: dict[str, Any], personalization: dict[str, Any]) -> bytes:
    """The message of one personalization. Its headers replace those of the request, which is the harder of two readings
    of "override"."""
    message = EmailMessage(policy=SMTP.clone(max_line_length=998))
    values = personalization.get("substitutions", {})
    message["From"] = _mailbox(request["from"])
    message["To"] = _mailbox(personalization["to"][0])
    if "reply_to" in request:
        message["Reply-To"] = _mailbox(request["reply_to"])
    message["Subject"] = substituted(request["subject"], values)
    message["Date"] = "Thu, 01 Jan 2026 12:00:00 +0000"
    message["Message-ID"] = f"<{personalization['custom_args']['d']}@ismtpd.sendgrid.example>"
    for name, value in (personalization.get("headers") or request.get("headers", {})).items():
        message[name] = value
    text, markup = (substituted(each["value"], values) for each in request["content"])
    message.set_content(text)
    message.add_alternative(markup, subtype="html")
    return message.as_bytes()


def _mailbox(mailbox: dict[str, str]) -> Any:
    from email.headerregistry import Address

    return Address(display_name=mailbox.get("name", ""), addr_spec=mailbox["email"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="sendgrid_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--key", default="SG.test-key")
    parser.add_argument("--no-validate", action="store_true")
    options = parser.parse_args()
    server = SendgridServer(
        key=options.key,
        delay=options.delay,
        validate=not options.no_validate,
        log=options.log,
        port=options.port,
        keep=False,
    )
    with server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
