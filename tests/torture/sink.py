"""A mail server that writes down what it really took, and makes trouble on request. Uses nothing of `newsletter`.

    python -m torture.sink LOG PORT TROUBLE_AS_JSON

It runs as a process of its own, so that it can be killed and started again on its port. For every message it appends
one line to LOG between the final dot and the answer, with a plain `write`, which survives kill -9:

    kind TAB time TAB delivery TAB recipient TAB return path

The kinds: `accepted` (the answer is about to be sent), `taken` (accepted, but the client never hears of it), and two
that stand for no message: `lost` (the final dot came, the message was thrown away, and the client hears nothing) and
`cut` (the connection was broken off while the message came in; the client cannot always tell that from `lost`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong, as shares of all messages (0 to 1). Nothing does by default."""

    seed: int = 1
    refuse: float = 0.0  # RCPT is refused for good, always for the same addresses (`refuses`)
    defer_rcpt: float = 0.0  # RCPT is put off
    defer_dot: float = 0.0  # the message is put off after its final dot
    drop_early: float = 0.0  # the connection breaks before the message: at MAIL, RCPT or DATA
    drop_body: float = 0.0  # … while the message comes in
    drop_lost: float = 0.0  # … after the final dot, and the message is thrown away
    drop_taken: float = 0.0  # … after the final dot, and the message was taken
    hang_lost: float = 0.0  # the final dot is never answered, and the message is thrown away
    hang_taken: float = 0.0  # the final dot is never answered, and the message was taken
    delay: float = 0.0  # seconds before the answer to a final dot
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 50000000")


def refuses(trouble: Trouble, address: str) -> bool:
    """Whether this address is refused: the truth, known to server and judge alike."""
    return zlib.crc32(f"{trouble.seed}:{address}".encode()) % 10_000 < trouble.refuse * 10_000


class Line(NamedTuple):
    kind: str
    at: float
    delivery: str
    recipient: str
    return_path: str

    @property
    def arrived(self) -> bool:
        return self.kind in ("accepted", "taken")


# --- the client's side: start, stop, read -----------------------------------------------------------------------------


@dataclass(kw_only=True)
class Sink:
    """The server as a process. `start` it, `kill` it, start it again on the same port; `lines` at any time."""

    log: Path
    trouble: Trouble = field(default_factory=Trouble)
    port: int = 0
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Does nothing when it runs."""
        if self._process:
            return
        self._process = subprocess.Popen(
            [sys.executable, *self._command()],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def _command(self) -> list[str]:
        return ["-m", "torture.sink", str(self.log), str(self.port), json.dumps(asdict(self.trouble))]

    def kill(self) -> None:
        """At once, whatever is on its way."""
        assert self._process
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process = None

    def close(self) -> None:
        if self._process:
            self.kill()

    def lines(self) -> list[Line]:
        lines = []
        for line in self.log.read_text("utf-8").splitlines() if self.log.exists() else ():
            kind, at, delivery, recipient, return_path = line.split("\t")
            lines.append(Line(kind, float(at), delivery, recipient, return_path))
        return lines

    def size(self) -> int:
        """Octets of the log: a quick look at how far it is."""
        return self.log.stat().st_size if self.log.exists() else 0


@dataclass(kw_only=True)
class SendgridSink(Sink):
    """The server that stands for SendGrid (tests/sendgrid_server.py), in the same hands. Of all troubles it knows the
    delay alone, which here is that of a request. Its messages bear no return path of ours."""

    def _command(self) -> list[str]:
        options = ["--port", str(self.port), "--log", str(self.log), "--delay", str(self.trouble.delay)]
        return ["-m", "sendgrid_server", *options, "--no-validate"]

    def lines(self) -> list[Line]:
        lines = []
        for line in self.log.read_text("utf-8").splitlines() if self.log.exists() else ():
            delivery, recipient = line.split("\t")
            lines.append(Line("accepted", 0.0, delivery, recipient, ""))
        return lines


# --- the server's side ------------------------------------------------------------------------------------------------

_PATH = re.compile(rb"(?:FROM|TO):\s*<([^>]*)>", re.IGNORECASE)
_DELIVERY = re.compile(rb"^X-Newsletter-Delivery: *(\S+)", re.IGNORECASE | re.MULTILINE)


class _Session(asyncio.Protocol):
    """One connection. Commands are answered in their order; while an answer is late nothing behind it is looked at."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._dice = random.Random(server.trouble.seed * 1_000_003 + server.sessions)
        server.sessions += 1
        self._buffer = bytearray()
        self._seen = 0  # octets of the buffer in which the end of the message is known not to be
        self._in_body = self._deaf = False
        self._reset()

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._fate = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # asyncio does so itself only for sockets that were made with a protocol number.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._say(b"220 sink.example.net ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def _say(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _break(self, answers: bytearray) -> None:
        """The connection is gone: half of the times with a reset, half of the times with a plain end. What was answered
        before has been said."""
        self._deaf = True
        if answers:
            self._say(bytes(answers))
            answers.clear()
            self._transport.close()
        elif self._dice.random() < 0.5:
            self._transport.abort()
        else:
            self._transport.close()

    def _work(self) -> None:
        answers = bytearray()
        while not self._deaf:
            if self._in_body:
                done = self._body(answers)
            else:
                line, end, _ = self._buffer.partition(b"\r\n")
                done = not end
                if end:
                    del self._buffer[: len(line) + 2]
                    self._command(bytes(line), answers)
            if done:
                break
        if answers and not self._transport.is_closing():
            self._transport.write(bytes(answers))

    def _command(self, line: bytes, answers: bytearray) -> None:
        word = line[:4].upper()
        if word == b"MAIL" and (found := _PATH.search(line)):
            self._reset()
            self._sender = found[1].decode("utf-8", "replace")
            self._fate = self._server.draw(self._dice)
            if self._fate == "drop_early" and self._dice.random() < 0.4:
                self._break(answers)
                return
            answers += b"250 2.1.0 sender ok\r\n"
        elif word == b"RCPT" and (found := _PATH.search(line)) and self._sender is not None:
            address = found[1].decode("utf-8", "replace")
            if self._fate == "drop_early" and self._dice.random() < 0.5:
                self._break(answers)
            elif refuses(self._server.trouble, address):
                answers += b"550 5.1.1 no such mailbox\r\n"
            elif self._fate == "defer_rcpt":
                answers += b"450 4.2.0 greylisted, come back later\r\n"
            else:
                self._recipients.append(address)
                answers += b"250 2.1.5 recipient ok\r\n"
        elif word == b"DATA":
            if self._fate == "drop_early" and self._recipients:
                self._break(answers)
            elif self._recipients:
                self._in_body, self._seen = True, 0
                answers += b"354 go ahead\r\n"
            else:
                answers += b"554 5.5.1 no valid recipients\r\n"
        elif word == b"RSET":
            self._reset()
            answers += b"250 2.0.0 forgotten\r\n"
        elif word == b"EHLO":
            words = ["sink.example.net", *self._server.trouble.extensions]
            answers += b"".join(b"250-%b\r\n" % each.encode() for each in words[:-1])
            answers += b"250 %b\r\n" % words[-1].encode()
        elif word in (b"HELO", b"NOOP"):
            answers += b"250 2.0.0 ok\r\n"
        elif word == b"QUIT":
            self._transport.write(bytes(answers) + b"221 2.0.0 bye\r\n")
            answers.clear()
            self._deaf = True
            self._transport.close()
        elif word in (b"MAIL", b"RCPT"):
            answers += b"503 5.5.1 bad sequence of commands\r\n"
        else:
            answers += b"500 5.5.2 what?\r\n"

    def _body(self, answers: bytearray) -> bool:
        """True when the end of the message is not here yet, or the answer to it is late."""
        if self._fate == "drop_body" and len(self._buffer) > 10:
            for recipient in self._recipients:
                self._server.note("cut", "", recipient, self._sender or "")
            self._break(answers)
            return True
        if self._buffer.startswith(b".\r\n"):
            end, skip = 0, 3
        else:
            end, skip = self._buffer.find(b"\r\n.\r\n", max(0, self._seen - 4)), 5
        if end < 0:
            self._seen = len(self._buffer)
            return True
        found = _DELIVERY.search(self._buffer, 0, end)
        delivery = found[1].decode("ascii", "replace") if found else ""
        del self._buffer[: end + skip]
        self._in_body = False
        fate, sender, recipients = self._fate, self._sender or "", self._recipients
        self._reset()
        if fate == "defer_dot":
            answers += b"451 4.3.0 try again later\r\n"
            return False
        kind = {"drop_taken": "taken", "hang_taken": "taken", "drop_lost": "lost", "hang_lost": "lost"}.get(fate)
        for recipient in recipients:
            self._server.note(kind or "accepted", delivery, recipient, sender)
        if fate.startswith("drop_"):
            self._break(answers)
        elif fate.startswith("hang_"):
            self._deaf = True
        elif self._server.trouble.delay:
            self._transport.write(bytes(answers))
            answers.clear()
            self._deaf = True
            asyncio.get_running_loop().call_later(self._server.trouble.delay, self._late)
        else:
            answers += self._server.taken()
            return False
        return True

    def _late(self) -> None:
        self._deaf = False
        self._say(self._server.taken())
        self._work()


class _Server:
    def __init__(self, log: Path, trouble: Trouble) -> None:
        self.trouble = trouble
        self.sessions = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._messages = 0
        each = (
            "defer_rcpt",
            "defer_dot",
            "drop_early",
            "drop_body",
            "drop_lost",
            "drop_taken",
            "hang_lost",
            "hang_taken",
        )
        self._fates = [(name, share) for name in each if (share := getattr(trouble, name))]

    def draw(self, dice: random.Random) -> str:
        if not self._fates:
            return ""
        at = dice.random()
        for name, share in self._fates:
            at -= share
            if at < 0:
                return name
        return ""

    def note(self, kind: str, delivery: str, recipient: str, sender: str) -> None:
        os.write(self._log, f"{kind}\t{time.time():.6f}\t{delivery}\t{recipient}\t{sender}\n".encode())

    def taken(self) -> bytes:
        self._messages += 1
        return b"250 2.0.0 queued as %X\r\n" % self._messages


async def _serve(log: Path, port: int, trouble: Trouble) -> None:
    # The seed of a restarted server is another one: what failed must not fail the same way for ever.
    server = _Server(log, trouble)
    server.sessions = int(time.time() * 1000) % 1_000_000 if port else 0
    listening = socket.create_server(("127.0.0.1", port), backlog=200, reuse_port=False)
    await asyncio.get_running_loop().create_server(lambda: _Session(server), sock=listening)
    print(listening.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    log, port, trouble = sys.argv[1:]
    values = json.loads(trouble)
    values["extensions"] = tuple(values["extensions"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rig ends it
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Path(log), int(port), Trouble(**values)))


if __name__ == "__main__":
    main()
