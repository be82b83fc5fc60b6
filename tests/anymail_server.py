"""A real HTTP server that speaks the send endpoint of each service of the anymail provider.

    with MailService("postmark", key="k") as service:
        service.script += [Answer(429, headers={"Retry-After": "7"})]      the first request is turned away
        …
        service.taken                                                       what it took, whatever it answered

It checks what the services say they check: the key, the fields that must be there, their types, how many recipients a
request may have. It fills in templates as their documentation tells, knowing nothing of how ours are written. Written
from the services' own reference pages; none of them was asked.
"""

from __future__ import annotations

import base64
import html
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import default
from email.utils import parseaddr
from enum import Enum
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl


class Act(Enum):
    CUT = "close the connection when the request is in, without a word"
    CUT_EARLY = "break the connection off before the body is read"
    HALF = "take the messages, send half of the answer, then close"
    HANG = "take the messages and never answer"
    DRIP = "take the messages and send the answer one octet at a time, for ever"
    DRIP_HEAD = "the same with a header line that has no end"


@dataclass(frozen=True)
class Answer:
    """What to say instead of the usual answer."""

    status: int
    body: object = b""  # octets, or something for JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    takes: bool = False  # take the messages all the same


Reaction = Answer | Act | None  # None: the usual answer


@dataclass(frozen=True, kw_only=True)
class Took:
    """A message as its recipient would see it."""

    key: str  # of the delivery: what X-Newsletter-Delivery or the metadata say
    address: str
    name: str
    sender: str
    subject: str
    text: str
    html: str
    headers: Mapping[str, str]
    images: tuple[str, ...] = ()
    raw: bytes = b""

    def as_bytes(self) -> bytes:
        """A message that says the same, for tests that look at messages."""
        if self.raw:
            return self.raw
        message = MIMEMultipart("alternative")
        for name, value in self.headers.items():
            message[name] = value
        if not any(name.lower() == "x-newsletter-delivery" for name in self.headers):
            message["X-Newsletter-Delivery"] = self.key  # it came as metadata
        message["Subject"] = self.subject
        message.attach(MIMEText(self.text, "plain", "utf-8"))
        message.attach(MIMEText(self.html, "html", "utf-8"))
        return message.as_bytes()


@dataclass(frozen=True, kw_only=True)
class Request:
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Bad(Exception):
    def __init__(self, status: int, document: object) -> None:
        self.status, self.document = status, document


class MailService:
    """One service on the loopback interface."""

    def __init__(
        self,
        name: str,
        *,
        key: str = "key",
        secret: str = "secret",
        delay: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self.key, self.secret, self.delay = name, key, secret, delay
        self.script: list[Reaction] = []  # for one request after the other
        self.answer: Callable[[Request], Reaction] = lambda request: None  # for those after the script
        self.refuse: Callable[[Took], object | None] = lambda took: None  # an error document for one recipient
        self.requests: list[Request] = []
        self.taken: list[Took] = []
        self.connections = 0
        self._once: dict[str, tuple[bytes, bytes]] = {}
        self._lock = threading.Lock()
        self._tls = tls
        self._stopped = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/"

    def __enter__(self) -> MailService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with self._lock:
                self._sockets.add(sock)
            with sock, sock.makefile("rb") as stream:
                while not self._stopped.is_set() and self._exchange(sock, stream):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._sockets.discard(sock)
            sock.close()

    def _exchange(self, sock: socket.socket, stream: Any) -> bool:
        line = stream.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while row := stream.readline(65536).decode("latin-1").rstrip("\r\n"):
            name, _, value = row.partition(":")
            headers[name.strip().lower()] = value.strip()
        with self._lock:
            reaction: Reaction = self.script.pop(0) if self.script else None
        if reaction is Act.CUT_EARLY:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        body = stream.read(int(headers.get("content-length", "0")))
        request = Request(path=line[1], headers=headers, body=body, at=time.monotonic())
        with self._lock:
            self.requests.append(request)
        reaction = reaction or self.answer(request)
        if reaction is Act.CUT:
            return False
        status, document, more = 0, b"", {}
        if isinstance(reaction, Answer):
            if reaction.takes:
                self._handled(request)
            status, more = reaction.status, dict(reaction.headers)
            document = reaction.body if isinstance(reaction.body, bytes) else json.dumps(reaction.body).encode()
        else:
            if line[0] != "POST":
                status, document = 405, b"{}"
            else:
                status, document, more = self._handled(request)
        if self.delay:
            time.sleep(self.delay)
        head = f"HTTP/1.1 {status} Whatever\r\n"
        more = {"Content-Type": "application/json", "Content-Length": str(len(document))} | more
        for name, value in more.items():
            head += f"{name}: {value}\r\n"
        if reaction is Act.HANG:
            self._stopped.wait()
            return False
        if reaction is Act.HALF:
            sock.sendall(head.encode() + b"\r\n" + document[: len(document) // 2])
            return False
        if isinstance(reaction, Act):  # a drip
            sock.sendall(head.encode() + (b"X-Long: " if reaction is Act.DRIP_HEAD else b"\r\n"))
            while not self._stopped.wait(0.05):
                sock.sendall(b" ")
            return False
        sock.sendall(head.encode("latin-1", "replace") + b"\r\n" + document)
        return headers.get("connection", "").lower() != "close"

    def _handled(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        try:
            once = request.headers.get("idempotency-key", "") if self.name in ("resend", "sparkpost") else ""
            if self.name == "brevo":
                once = (request.json.get("headers") or {}).get("idempotencyKey", "") if request.body[:1] == b"{" else ""
            with self._lock:
                former = self._once.get(once) if once else None
            if former and self.name == "brevo":
                raise Bad(400, {"code": "duplicate_parameter", "message": "idempotencyKey was used before"})
            if former and former[0] != request.body:
                raise Bad(
                    409,
                    {"name": "invalid_idempotent_request", "message": "another payload", "errors": [{"code": "1600"}]},
                )
            if former:
                return 200, former[1], {"X-Idempotent-Replayed": "true"}
            took, status, document, more = SERVICES[self.name](self, request)
            for each in took:
                if (refusal := self.refuse(each)) is not None:
                    raise Bad(422 if self.name == "postmark" else 400, refusal)
            octets = document if isinstance(document, bytes) else json.dumps(document).encode()
            with self._lock:
                self.taken += took
                if once:
                    self._once[once] = (request.body, octets)
            return status, octets, more
        except Bad as bad:
            return bad.status, json.dumps(bad.document).encode(), {}


# --- what the services have in common ---------------------------------------------------------------------------------


def _need(held: bool, status: int = 400, message: str = "bad request") -> None:
    if not held:
        raise Bad(status, {"message": message, "Message": message, "ErrorCode": 402, "name": "validation_error"})


def _document(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "application/json")  # Mandrill asks for none, and anymail sends none
    _need(kind.startswith("application/json"), 415, "not JSON")
    document = json.loads(request.body)
    _need(isinstance(document, dict))
    return document  # type: ignore[no-any-return]


def _strings(headers: Any) -> dict[str, str]:
    _need(isinstance(headers, dict) and all(isinstance(each, str) for pair in headers.items() for each in pair))
    _need(not any(re.search("[\r\n]", value) for value in headers.values()), message="a line end in a header")
    return dict(headers)


def _key(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """The delivery's key: the header and the metadata must agree where both are there."""
    named = [value for name, value in headers.items() if name.lower() == "x-newsletter-delivery"]
    keys = {*named, *([str(metadata["d"])] if "d" in metadata else [])}
    _need(len(keys) == 1, message="no key, or two")
    return keys.pop()


def _took(address: str, name: str, headers: Mapping[str, str], metadata: Mapping[str, Any], **more: Any) -> Took:
    _need(re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", address) is not None, message="'to' is not an address")
    _need(bool(more["text"]) and bool(more["html"]) and bool(more["subject"]), message="an empty part")
    return Took(key=_key(headers, metadata), address=address, name=name, headers=dict(headers), **more)


def _parsed(mailbox: str) -> tuple[str, str]:
    """`Name <address>`, the name in Unicode as JSON APIs take it, or in encoded-words."""
    name, address = parseaddr(mailbox)
    return str(make_header(decode_header(name))), address


def _filled(text: str, token: str, value: Callable[[re.Match[str]], str]) -> str:
    return re.sub(token, value, text, flags=re.DOTALL)


# --- each service -----------------------------------------------------------------------------------------------------

Handled = tuple[list[Took], int, Any, dict[str, str]]


def mailgun(service: MailService, request: Request) -> Handled:
    _basic(request, "api", service.key)
    _need(re.fullmatch(r"/[^/]+/messages", request.path) is not None, 404, "Domain not found")
    files: list[str] = []
    if request.headers["content-type"].startswith("multipart/form-data"):
        fields, files = _multipart(request)
    else:
        fields = parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)
    form = dict(fields)
    to = [_parsed(value) for name, value in fields if name == "to"]
    _need(0 < len(to) <= 1000, message="to parameter: too many recipients")
    _need({"from", "subject", "text", "html"} <= form.keys())
    _need(form.get("o:tracking-clicks") == "no" and form.get("o:tracking-opens") == "no", message="tracking is on")
    variables = json.loads(form["recipient-variables"])
    took = []
    for name, address in to:
        own = variables[address]

        def value(found: re.Match[str], own: Mapping[str, Any] = own) -> str:
            if found[1].startswith("recipient."):
                return str(own[found[1].removeprefix("recipient.")])
            return "SERVICE"  # %recipient%, %unsubscribe_url% and their like are the service's own

        def fill(text: str, value: Callable[[re.Match[str]], str] = value) -> str:
            return _filled(
                text, r"%(recipient\.[\w:.-]+|recipient(?:_\w+)?|(?:tag_)?unsubscribe_url|mailing_list_\w+)%", value
            )

        headers = {each[2:]: fill(text) for each, text in form.items() if each.startswith("h:")}
        metadata = {each[2:]: fill(text) for each, text in form.items() if each.startswith("v:")}
        parts = {part: fill(form[part]) for part in ("text", "html", "subject")}
        took.append(_took(address, name, headers, metadata, sender=form["from"], images=tuple(files), **parts))
    return took, 200, {"id": "<20261128.1.2@example.org>", "message": "Queued. Thank you."}, {}


def _basic(request: Request, user: str, password: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Basic ")
    _need(base64.b64decode(given).decode() == f"{user}:{password}", 401, "Forbidden")


def _multipart(request: Request) -> tuple[list[tuple[str, str]], list[str]]:
    message = message_from_bytes(
        b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n" + request.body
    )
    fields, files = [], []
    for part in message.get_payload():
        assert isinstance(part, Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if filename := part.get_filename():
            files.append(filename)
        else:
            fields.append((str(part.get_param("name", header="content-disposition")), content.decode()))
    return fields, files


def mailjet(service: MailService, request: Request) -> Handled:
    _basic(request, service.key, service.secret)
    _need(request.path == "/send", 404)
    document = _document(request)
    shared, messages = document["Globals"], document["Messages"]
    _need(0 < len(messages) <= 50, message="Messages: at most 50")
    took, answers = [], []
    failed = False
    for message in messages:
        whole = shared | message  # what a message says itself takes the place of what is said for all
        _need(whole.get("TrackClicks") == whole.get("TrackOpens") == "disabled", message="tracking is on")
        (to,) = whole["To"]
        variables = whole["Variables"]

        def fill(text: str, variables: Mapping[str, str] = variables) -> str:
            return _filled(
                text, r"\[\[(?:var:(\w+)|[^\]]*)\]\]", lambda found: variables[found[1]] if found[1] else "SERVICE"
            )

        images = tuple(each["ContentID"] for each in whole.get("InlinedAttachments", ()))
        one = _took(
            to["Email"],
            to.get("Name", ""),
            _strings(whole["Headers"]),
            json.loads(whole["EventPayload"]),
            sender=whole["From"]["Email"],
            subject=whole["Subject"],
            text=fill(whole["TextPart"]),
            html=fill(whole["HTMLPart"]),
            images=images,
        )
        if (refusal := service.refuse(one)) is not None:
            failed = True
            answers.append({"Status": "error", "Errors": [refusal]})
        else:
            took.append(one)
            answers.append(
                {
                    "Status": "success",
                    "To": [{"Email": one.address, "MessageID": 1000 + len(service.taken) + len(took)}],
                }
            )
    return took, 400 if failed else 200, {"Messages": answers}, {}


def sparkpost(service: MailService, request: Request) -> Handled:
    _need(request.headers.get("authorization") == service.key, 401, "Unauthorized.")
    _need(request.path == "/transmissions/", 404)
    document = _document(request)
    content, options = document["content"], document["options"]
    _need(options == {"click_tracking": False, "open_tracking": False}, message="tracking is on")
    _need(0 < len(document["recipients"]) <= 10000)
    took = []
    for each in document["recipients"]:
        values = document.get("substitution_data", {}) | each.get("metadata", {}) | each["substitution_data"]
        name, header_to = _parsed(each["address"]["header_to"])
        _need(header_to == each["address"]["email"])

        def fill(text: str, *, markup: bool = False, values: Mapping[str, str] = values) -> str:
            def value(found: re.Match[str]) -> str:
                if found[1]:
                    return values[found[1]]
                if found[2]:
                    return html.escape(values[found[2]]) if markup else values[found[2]]
                return "SERVICE"  # a statement, an expression, a link's attributes

            return _filled(text, r"\{\{\{\s*(\w+)\s*\}\}\}|\{\{\s*(\w+)\s*\}\}|\{\{.*?\}\}|\[\[.*?\]\]|\{\{.*", value)

        headers = {name: fill(text) for name, text in _strings(content["headers"]).items()}
        parts = {
            "text": fill(content["text"]),
            "html": fill(content["html"], markup=True),
            "subject": fill(content["subject"]),
        }
        images = tuple(image["name"] for image in content.get("inline_images", ()))
        sender = content["from"]
        took.append(
            _took(each["address"]["email"], name, headers, each["metadata"], sender=sender, images=images, **parts)
        )
    results = {"total_rejected_recipients": 0, "total_accepted_recipients": len(took), "id": "11668787484950529"}
    return took, 200, {"results": results}, {}


def unisender(service: MailService, request: Request) -> Handled:
    _need(request.headers.get("x-api-key") == service.key, 401, "Unauthorized")
    _need(request.path == "/email/send.json", 404)
    message = _document(request)["message"]
    _need(0 < len(message["recipients"]) <= 500)
    _need(message["track_links"] == message["track_read"] == 0, message="tracking is on")
    _need(message["template_engine"] == "simple")
    took = []
    for each in message["recipients"]:
        values = each["substitutions"]

        def fill(text: str, values: Mapping[str, str] = values) -> str:
            return _filled(text, r"\{\{\s*(\w+)\s*\}\}", lambda found: values.get(found[1], "SERVICE"))

        headers = _strings(message["headers"])
        for name, value in headers.items():
            _need("{{" not in value or name == "List-Unsubscribe", message="headers: only List-Unsubscribe may differ")
        headers = {name: fill(value) for name, value in headers.items()}
        parts = {"text": fill(message["body"]["plaintext"]), "html": fill(message["body"]["html"])}
        images = tuple(image["name"] for image in message.get("inline_attachments", ()))
        took.append(
            _took(
                each["email"],
                values.get("to_name", ""),
                headers,
                each["metadata"],
                sender=message["from_email"],
                subject=fill(message["subject"]),
                images=images,
                **parts,
            )
        )
    return took, 200, {"status": "success", "job_id": "1ZymBc-00041N-9X", "emails": [each.address for each in took]}, {}


def brevo(service: MailService, request: Request) -> Handled:
    _need(request.headers.get("api-key") == service.key, 401, "Key not found")
    _need(request.path == "/smtp/email", 404)
    document = _document(request)
    _need(not document.get("attachment") and "to" not in document)
    versions = document["messageVersions"]
    _need(0 < len(versions) <= 1000)
    _need(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["headers"]["idempotencyKey"]) is not None)
    took = []
    for version in versions:
        (to,) = version["to"]
        headers = _strings(version["headers"])
        metadata = json.loads(headers.pop("X-Mailin-custom"))
        parts = {
            ours: _jinja(document[theirs], {f"params.{name}": value for name, value in version["params"].items()})
            for ours, theirs in (("text", "textContent"), ("html", "htmlContent"), ("subject", "subject"))
        }
        took.append(
            _took(to["email"], to.get("name", ""), headers, metadata, sender=document["sender"]["email"], **parts)
        )
    return took, 201, {"messageIds": [f"<2026.{number}@smtp-relay.mailin.fr>" for number in range(len(took))]}, {}


def _jinja(text: str, values: Mapping[str, str]) -> str:
    """Django-like templates: escaped unless autoescape is off; a tag that is none makes the whole an error."""
    out, escaping = [], [True]
    for piece in re.split(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", text, flags=re.DOTALL):
        inner = piece[2:-2].strip()
        if piece.startswith("{{"):
            _need(piece.endswith("}}"), message="template: {{ without an end")
            value = values.get(inner, "SERVICE")
            out.append(html.escape(value) if escaping[-1] else value)
        elif piece.startswith("{%") and piece.endswith("%}"):
            if inner == "autoescape off":
                escaping.append(False)
            elif inner == "endautoescape" and len(escaping) > 1:
                escaping.pop()
            else:
                _need(False, message="template: an unknown tag")
        elif not piece.startswith("{#"):
            _need(not re.search(r"\{[{%]", piece), message="template: a tag without an end")
            out.append(piece)
    return "".join(out)


def mailersend(service: MailService, request: Request) -> Handled:
    _need(request.headers.get("authorization") == f"Bearer {service.key}", 401, "Unauthenticated.")
    _need(request.path == "/email", 404)
    document = _document(request)
    _need(document["settings"] == {"track_clicks": False, "track_opens": False}, message="tracking is on")
    (to,) = document["to"]
    personal: dict[str, str] = {each["email"]: each["data"] for each in document.get("personalization", ())}.get(
        to["email"], {}
    )

    def fill(text: str) -> str:
        def value(found: re.Match[str]) -> str:
            return personal.get(found[1] or "", "SERVICE")

        return _filled(text, r"\{\{\s*(\w+)\s*\}\}|\{\{.*?\}\}|\{%.*?%\}|\{\$.*?\}|\{#.*?#\}", value)

    headers = {each["name"]: each["value"] for each in document.get("headers", ())}
    if document.get("precedence_bulk"):
        headers["Precedence"] = "bulk"
    one = _took(
        to["email"],
        to.get("name", ""),
        _strings(headers),
        {},
        sender=document["from"]["email"],
        subject=fill(document["subject"]),
        text=fill(document["text"]),
        html=fill(document["html"]),
        images=tuple(each["id"] for each in document.get("attachments", ())),
    )
    return [one], 202, b"", {"X-Message-Id": "5e42957d51f1d94a1070a733", "Content-Type": "text/html"}


def _plain_json(
    path: str,
    authorized: Callable[[MailService, Request, dict[str, Any]], bool],
    read: Callable[[dict[str, Any]], Took],
    answer: Any,
) -> Callable[[MailService, Request], Handled]:
    """A service that takes one finished message in a request."""

    def handled(service: MailService, request: Request) -> Handled:
        document = _document(request)
        _need(authorized(service, request, document), 401, "invalid key")
        _need(request.path == path, 404, "no such endpoint")
        took = read(document)
        return [took], 200, answer(took), {}

    return handled


def _postmark(document: dict[str, Any]) -> Took:
    name, address = _parsed(document["To"])
    _need(document["TrackOpens"] is False and document["TrackLinks"] == "None", 422, "tracking is on")
    headers = {each["Name"]: each["Value"] for each in document["Headers"]}
    bulk = headers.get("Precedence") == "bulk"
    _need((document.get("MessageStream") == "broadcast") == bulk, 422, "the wrong message stream")
    return _took(
        address,
        name,
        _strings(headers),
        document["Metadata"],
        sender=document["From"],
        subject=document["Subject"],
        text=document["TextBody"],
        html=document["HtmlBody"],
        images=tuple(each["ContentID"].removeprefix("cid:") for each in document.get("Attachments", ())),
    )


def _resend(document: dict[str, Any]) -> Took:
    ((name, address),) = map(_parsed, document["to"])
    headers = _strings(document["headers"])
    metadata = json.loads(headers.pop("X-Metadata"))
    images = tuple(each["content_id"] for each in document.get("attachments", ()))
    parts = {part: document[part] for part in ("subject", "text", "html")}
    return _took(address, name, headers, metadata, sender=document["from"], images=images, **parts)


def _mailtrap(document: dict[str, Any]) -> Took:
    (to,) = document["to"]
    images = tuple(each["content_id"] for each in document.get("attachments", ()))
    parts = {part: document[part] for part in ("subject", "text", "html")}
    headers, metadata = _strings(document["headers"]), document["custom_variables"]
    return _took(
        to["email"], to.get("name", ""), headers, metadata, sender=document["from"]["email"], images=images, **parts
    )


def _mandrill(document: dict[str, Any]) -> Took:
    message = document["message"]
    (to,) = message["to"]
    _need(to["type"] == "to" and message["merge"] is False, 500, "merge tags are on")
    _need(message["track_opens"] is False and message["track_clicks"] is False, 500, "tracking is on")
    images = tuple(each["name"] for each in message.get("images", ()))
    parts = {part: message[part] for part in ("subject", "text", "html")}
    headers, metadata = _strings(message["headers"]), message["metadata"]
    return _took(
        to["email"], to.get("name", ""), headers, metadata, sender=message["from_email"], images=images, **parts
    )


def _postal(document: dict[str, Any]) -> Took:
    ((name, address),) = map(_parsed, document["to"])
    _need(not document.get("attachments"))
    parts = {"subject": document["subject"], "text": document["plain_body"], "html": document["html_body"]}
    return _took(address, name, _strings(document["headers"]), {}, sender=document["from"], **parts)


def _scaleway(document: dict[str, Any]) -> Took:
    (to,) = document["to"]
    _need(document["project_id"] == "secret", message="project_id")
    headers = _strings({each["key"]: each["value"] for each in document["additional_headers"]})
    metadata = json.loads(headers.pop("X-Metadata"))
    parts = {part: document[part] for part in ("subject", "text", "html")}
    return _took(to["email"], to.get("name", ""), headers, metadata, sender=document["from"]["email"], **parts)


def ses(service: MailService, request: Request) -> Handled:
    given = request.headers.get("authorization", "")
    _need(given.startswith(f"AWS4-HMAC-SHA256 Credential={service.key}/"), 403, "The security token is invalid.")
    _need(request.path == "/v2/email/outbound-emails", 404)
    document = json.loads(request.body)
    raw = base64.b64decode(document["Content"]["Raw"]["Data"])
    (address,) = document["Destination"]["ToAddresses"]
    (tag,) = document["EmailTags"]
    message = message_from_bytes(raw, policy=default)
    parts = {"text": message.get_body(("plain",)), "html": message.get_body(("html",))}
    lines = dict(
        re.findall(r"(?m)^([A-Za-z-]+): (.*(?:\r\n[ \t].*)*)\r$", raw.partition(b"\r\n\r\n")[0].decode() + "\r")
    )
    headers = {name: re.sub("\r\n(?=[ \t])", "", value).rstrip("\r") for name, value in lines.items()}
    one = _took(
        address,
        str(message["To"].addresses[0].display_name),
        headers,
        {tag["Name"]: tag["Value"]},
        sender=str(message["From"]),
        subject=str(message["Subject"]),
        images=tuple(part["Content-ID"].strip("<>") for part in message.walk() if part["Content-ID"]),
        raw=raw,
        **{name: part.get_content() for name, part in parts.items() if part},
    )
    return [one], 200, {"MessageId": "0100017a-1b2c-3d4e"}, {}


SERVICES: dict[str, Callable[[MailService, Request], Handled]] = {
    "brevo": brevo,
    "mailersend": mailersend,
    "mailgun": mailgun,
    "mailjet": mailjet,
    "mailtrap": _plain_json(
        "/send",
        lambda service, request, document: request.headers.get("api-token") == service.key,
        _mailtrap,
        lambda took: {"success": True, "message_ids": ["0c7fd939-02cf-11ed-88c2-0a58a9feac02"]},
    ),
    "mandrill": _plain_json(
        "/messages/send.json",
        lambda service, request, document: document["key"] == service.key,
        _mandrill,
        lambda took: [{"email": took.address, "status": "sent", "_id": "abc123abc123abc123abc123abc123"}],
    ),
    "postal": _plain_json(
        "/api/v1/send/message",
        lambda service, request, document: request.headers.get("x-server-api-key") == service.key,
        _postal,
        lambda took: {
            "status": "success",
            "data": {
                "message_id": "x@rp.postal.example",
                "messages": {took.address: {"id": 8237, "token": "LcMXkbP8"}},
            },
        },
    ),
    "postmark": _plain_json(
        "/email",
        lambda service, request, document: request.headers.get("x-postmark-server-token") == service.key,
        _postmark,
        lambda took: {
            "ErrorCode": 0,
            "Message": "OK",
            "MessageID": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817",
            "To": took.address,
        },
    ),
    "resend": _plain_json(
        "/emails",
        lambda service, request, document: request.headers.get("authorization") == f"Bearer {service.key}",
        _resend,
        lambda took: {"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"},
    ),
    "scaleway": _plain_json(
        "/emails",
        lambda service, request, document: request.headers.get("x-auth-token") == service.key,
        _scaleway,
        lambda took: {"emails": [{"id": "6e2f0b1c", "mail_rcpt": took.address, "status": "new"}]},
    ),
    "ses": ses,
    "sparkpost": sparkpost,
    "unisender": unisender,
}
