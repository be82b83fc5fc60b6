"""A real SMTP server whose every answer a test may script, and which logs what it really took.

    with SmtpServer(RCPT=[b"550 5.1.1 no such user\\r\\n"]) as server:     the first RCPT is refused, the others are not
        …
        server.taken                                                       the messages that it answered with 250

An answer is what `Reaction` says; a list gives one answer after the other over all connections, and the usual ones when
it is at its end; a function is asked each time and may return None for the usual one. Points at which answers are
scripted: CONNECT, EHLO, HELO, STARTTLS, AUTH, MAIL, RCPT, DATA, BODY (octets of a message came in), DOT, RSET, QUIT.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType


class Act(Enum):
    DROP = "close the connection without a word"
    RESET = "break the connection off"
    HANG = "never answer"


DROP, RESET, HANG = Act.DROP, Act.RESET, Act.HANG
Reaction = bytes | Act | None
Answers = Reaction | Sequence[Reaction] | Callable[["Session", str], Reaction]


@dataclass(frozen=True, kw_only=True)
class Taken:
    session: int
    sender: str  # the address in MAIL FROM
    parameters: str  # what follows it
    recipient: str
    message: bytes


class _Gone(Exception):
    """The session is at its end."""


@dataclass(eq=False)
class Session:
    server: SmtpServer
    number: int
    sock: socket.socket
    buffer: bytes = b""
    lines: list[str] = field(default_factory=list)  # commands as they came, "." for the end of a message
    body_octets: int = 0  # of messages, so far
    encrypted: bool = False
    user: str = ""
    sender: str = ""
    parameters: str = ""
    recipients: list[str] = field(default_factory=list)
    out: bytes = b""

    def run(self) -> None:
        try:
            if self.server.implicit_tls:
                self.encrypt()
            self.answer("CONNECT", "", b"220 test.example.org ESMTP\r\n")
            while True:
                line = self.line()
                self.lines.append(line)
                getattr(self, f"on_{line[:4].strip().lower()}", self.on_unknown)(line)
        except (_Gone, OSError):
            pass
        finally:
            self.sock.close()

    # --- octets ---

    def fill(self) -> None:
        """Reads more. What waits to be said is said first, so answers to what came together leave together."""
        self.flush()
        octets = self.sock.recv(65536)
        if not octets:
            raise _Gone
        self.buffer += octets

    def flush(self) -> None:
        out, self.out = self.out, b""
        if self.server.byte_by_byte:
            for octet in out:
                self.sock.sendall(bytes([octet]))
        elif out:
            self.sock.sendall(out)

    def line(self) -> str:
        while b"\r\n" not in self.buffer:
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def answer(self, point: str, line: str, usual: bytes) -> bytes:
        """Says what the script wants; what was said."""
        reaction = self.server.reaction(point, self, line)
        if reaction is None:
            reaction = usual
        if isinstance(reaction, Act):
            self.act(reaction)
        assert isinstance(reaction, bytes)
        self.out += reaction
        if reaction.startswith((b"421", b"521")):
            self.act(DROP)
        return reaction

    def act(self, act: Act) -> None:
        self.flush()
        if act is HANG:
            self.server.closing.wait()
        if act is RESET:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Gone

    # --- commands ---

    def on_ehlo(self, line: str) -> None:
        offers = list(self.server.offers)
        if self.server.context and not self.encrypted and not self.server.implicit_tls:
            offers.append("STARTTLS")
        if self.server.users and (self.encrypted or self.server.auth_in_clear):
            offers.append(f"AUTH {self.server.ways}")
        text = "\r\n250-".join(["test.example.org", *offers])
        head, _, last = text.rpartition("\r\n250-")
        self.answer("EHLO", line, (f"250-{head}\r\n250 {last}\r\n" if head else f"250 {last}\r\n").encode())

    def on_helo(self, line: str) -> None:
        self.answer("HELO", line, b"250 test.example.org\r\n")

    def on_star(self, line: str) -> None:
        if self.answer("STARTTLS", line, b"220 2.0.0 go ahead\r\n").startswith(b"220"):
            self.flush()
            self.encrypt()

    def encrypt(self) -> None:
        assert self.server.context is not None
        self.sock = self.server.context.wrap_socket(self.sock, server_side=True)
        self.buffer, self.encrypted = b"", True

    def on_auth(self, line: str) -> None:
        way, _, first = line.removeprefix("AUTH ").partition(" ")
        if way == "LOGIN":
            name, password = self.ask("VXNlcm5hbWU6"), self.ask("UGFzc3dvcmQ6")
        else:
            _, name, password = (b64decode(first).decode() if first else self.ask("")).split("\0")
        good = self.server.users.get(name) == password
        self.user = name if good else ""
        self.answer("AUTH", line, b"235 2.7.0 welcome\r\n" if good else b"535 5.7.8 wrong credentials\r\n")

    def ask(self, what: str) -> str:
        self.out += f"334 {what}\r\n".encode()
        self.lines.append(self.line())
        return b64decode(self.lines[-1]).decode()

    def on_mail(self, line: str) -> None:
        said = self.answer("MAIL", line, b"250 2.1.0 sender ok\r\n")
        self.sender, _, self.parameters = line.removeprefix("MAIL FROM:<").partition(">")
        if not said.startswith(b"250"):
            self.sender = ""

    def on_rcpt(self, line: str) -> None:
        if self.answer("RCPT", line, b"250 2.1.5 recipient ok\r\n").startswith(b"25"):
            self.recipients.append(line.removeprefix("RCPT TO:<").removesuffix(">"))

    def on_data(self, line: str) -> None:
        usual = b"354 go ahead\r\n" if self.recipients else b"554 5.5.1 no valid recipients\r\n"
        if not self.answer("DATA", line, usual).startswith(b"354"):
            return
        message = self.message()
        self.lines.append(".")
        if self.answer("DOT", "", b"250 2.0.0 Ok: queued as Q%d\r\n" % self.server.next_id()).startswith(b"250"):
            for recipient in self.recipients:
                self.server.taken.append(
                    Taken(
                        session=self.number,
                        sender=self.sender,
                        parameters=self.parameters.strip(),
                        recipient=recipient,
                        message=message,
                    )
                )
        self.clear()

    def message(self) -> bytes:
        seen, known = 0, len(self.buffer)
        while True:
            if known:
                self.body_octets += known
                reaction = self.server.reaction("BODY", self, "")
                if isinstance(reaction, Act):
                    self.act(reaction)
                elif reaction:
                    self.out += reaction
                    self.flush()
            if self.buffer.startswith(b".\r\n"):
                self.buffer = self.buffer[3:]
                self.body_octets -= len(self.buffer)
                return b""
            end = self.buffer.find(b"\r\n.\r\n", max(0, seen - 4))
            if end >= 0:
                message, self.buffer = self.buffer[: end + 2], self.buffer[end + 5 :]
                self.body_octets -= len(self.buffer)  # what came behind it
                return message
            seen = len(self.buffer)
            self.fill()
            known = len(self.buffer) - seen

    def on_rset(self, line: str) -> None:
        self.answer("RSET", line, b"250 2.0.0 ok\r\n")
        self.clear()

    def clear(self) -> None:
        self.sender, self.parameters, self.recipients = "", "", []

    def on_quit(self, line: str) -> None:
        self.answer("QUIT", line, b"221 2.0.0 bye\r\n")
        self.act(DROP)

    def on_unknown(self, line: str) -> None:
        self.out += b"500 5.5.1 what?\r\n"


class SmtpServer:
    """Listens on 127.0.0.1 from its making to `close`; a thread for each connection."""

    def __init__(
        self,
        *,
        offers: Sequence[str] = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"),
        context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        users: dict[str, str] | None = None,
        ways: str = "PLAIN LOGIN",
        auth_in_clear: bool = False,
        byte_by_byte: bool = False,
        receive_buffer: int = 0,
        port: int = 0,
        **answers: Answers,
    ) -> None:
        self.offers, self.context, self.implicit_tls = offers, context, implicit_tls
        self.users, self.ways, self.auth_in_clear = users or {}, ways, auth_in_clear
        self.byte_by_byte = byte_by_byte
        self.answers = answers
        self.taken: list[Taken] = []
        self.sessions: list[Session] = []
        self.closing = threading.Event()
        self._left = {point: list(answer) for point, answer in answers.items() if isinstance(answer, list | tuple)}
        self._lock = threading.Lock()
        self._ids = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> SmtpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for session in self.sessions:
            with suppress(OSError):
                session.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def next_id(self) -> int:
        with self._lock:
            self._ids += 1
            return self._ids

    def reaction(self, point: str, session: Session, line: str) -> Reaction:
        answers = self.answers.get(point)
        if callable(answers):
            return answers(session, line)
        if isinstance(answers, bytes | Act | None):
            return answers
        with self._lock:
            left = self._left[point]
            return left.pop(0) if left else None

    @property
    def lines(self) -> list[list[str]]:
        """What was said on each connection, "." for the end of a message."""
        return [session.lines for session in self.sessions]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = Session(self, len(self.sessions), sock)
            self.sessions.append(session)
            thread = threading.Thread(target=session.run, daemon=True)
            self._threads.append(thread)
            thread.start()
