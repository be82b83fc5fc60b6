"""One thread that runs every SMTP connection, with non-blocking sockets.

A job is one call of `send`. A connection that is free to write takes the next recipient from the jobs, in order. So the
end of one message and the envelope of the next leave in one write (RFC 2920), even when they are of different jobs, and
a connection that hangs holds up its own message only.

The rule that everything here keeps: a message whose final dot the kernel took and whose answer is not here is
`in_doubt`; one whose final dot it did not take has not been sent, since a server must not act on half a message (RFC
5321 §4.1.1.4).
"""

from __future__ import annotations

import ipaddress
import os
import re
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from newsletter.config import Smtp
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderDown, ProviderError, ProviderRejected
from newsletter.providers import Outcome, Recorder
from newsletter.providers.smtp_wire import (
    NO_REPLY,
    STEADY,
    Command,
    Dialogue,
    Offers,
    ProtocolError,
    Replies,
    Reply,
    meaning,
    opening,
    reference,
    shown,
)

TICK = 0.25  # seconds between two looks at the clock for all connections
IDLE = 30.0  # seconds after which a connection without work says QUIT
FAREWELL = 2.0  # seconds in which a server may answer QUIT
STALL = 2.0  # seconds without an answer after which the envelope that waits behind a message goes elsewhere
QUICK = 1.0  # seconds: to a server that needs longer for a message no envelope is sent ahead
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries to connect
LONG_PAUSE = 60.0  # the same while other connections work: the server takes no more of them
TRIES = 3  # connections that may break under one envelope before its recipient is deferred
ADDRESS_WAIT = 10.0  # seconds for one of a server's addresses while others are left
NAMES_KEPT = 60.0  # seconds for which addresses are used before the server's name is looked up again
SEND_BUFFER = 1 << 20  # octets: a whole message is then one system call, and its fate is known at once

STOPPING = "not sent: the worker is stopping"


# --- jobs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What is the same for every message of an edition."""

    envelope: Envelope
    commands: bytes  # MAIL, RCPT and DATA, to be filled with key and address
    utf8_commands: bytes  # the same for a message that needs SMTPUTF8
    utf8: bool  # every message needs it, for the sender's sake
    urgent: bool


class Job:
    """One call of `send`; the engine's own until `done` is set, but for `over`."""

    def __init__(self, letter: Letter, recipients: Sequence[Recipient], recorder: Recorder) -> None:
        self.letter, self.recipients, self.recorder = letter, recipients, recorder
        self.outcomes: list[Outcome | None] = [None] * len(recipients)
        self.place = 0  # of the next recipient
        self.again: list[int] = []  # places of recipients whose connection broke before their message left
        self.tries: dict[int, int] = {}  # place → connections that broke
        self.flying = 0  # recipients in the hands of a connection
        self.queued = False
        self.over = False  # nothing of it may leave any more
        self.stopped = False  # … since the worker stops: who is left over is deferred
        self.failure: ProviderError | None = None
        self.done = threading.Event()

    @property
    def waiting(self) -> int:
        """How many recipients no connection has taken yet."""
        return len(self.recipients) - self.place + len(self.again)

    def end(self) -> None:
        """Nobody else is taken from it."""
        self.over = True
        self.place = len(self.recipients)
        self.again.clear()

    def known(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome)


class _Mail:
    """One recipient in the hands of a connection."""

    __slots__ = ("body", "commands", "job", "key", "place")

    def __init__(self, job: Job, place: int, key: str, body: bytes, commands: bytes) -> None:
        self.job, self.place, self.key, self.body, self.commands = job, place, key, body, commands


# --- connections ------------------------------------------------------------------------------------------------------

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BOTH = _READ | _WRITE
_ENVELOPE = ("mail", "rcpt", "data")
_AHEAD = ("dot", *_ENVELOPE)
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Connection:
    """A socket and what was said on it. `sent` awaits the answer to its dot; the envelope of `next` was written behind
    it, and its body may leave when DATA is answered."""

    def __init__(self, sock: socket.socket, address: Any, others: list[Any], now: float) -> None:
        self.sock = sock
        self.address, self.others = address, others  # the server's addresses to try if this one does not answer
        self.connected = self.shaking_hands = self.encrypted = self.ready = self.quitting = self.closed = False
        self.dialogue: Dialogue | None = None  # until it is ready
        self.offers = Offers()
        self.replies = Replies()
        self.expected: deque[str] = deque()  # the commands whose replies are to come
        self.commands: deque[bytes] = deque()  # to be written one at a time, without PIPELINING
        self.events = _WRITE
        self.out: memoryview | None = None  # what the kernel has not taken yet
        self.tail = 0  # octets that were written behind the last final dot
        self.sent: _Mail | None = None
        self.next: _Mail | None = None
        self.rcpt_refused = False  # in the envelope that was written last
        self.reset = False  # the next envelope begins with RSET
        self.doomed = False  # its envelope went elsewhere: closed as soon as the answer to the dot is here
        self.steady = False  # the replies to come should be those of STEADY …
        self.usual: bytes | None = None  # … and after the first line these, as the last time
        self.quick = True
        self.served = False  # it has answered for a recipient
        self.since = now  # of the last progress

    @property
    def busy(self) -> bool:
        return not self.ready or bool(self.expected) or self.out is not None

    @property
    def dot_left(self) -> bool:
        """Whether the kernel took the final dot of `sent`."""
        return self.out is None or len(self.out) <= self.tail


class Engine:
    """All connections, and the jobs for them. What is not said to be for other threads runs in `thread` only."""

    def __init__(self, config: Smtp, tls: ssl.SSLContext | None) -> None:
        self._config, self._tls = config, tls
        self._selector = selectors.DefaultSelector()
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._ear, _READ)
        self._inbox: deque[Job] = deque()
        self._stopping = False
        self._gone_by = 0.0  # when it stops: the time by which it must have ended
        self._urgent: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._finished: list[Job] = []
        self._connections: set[_Connection] = set()
        self._idle: set[_Connection] = set()
        self._touched: set[Recorder] = set()  # recorders with answers that may not be written yet
        self._failures = 0  # connections that came to nothing, one after the other
        self._pause_until = 0.0
        self._found: deque[list[Any] | Exception] = deque()  # what the look-up of the server's name brought
        self._looking_since = self._looked_at = 0.0
        self._addresses: list[Any] = []
        self._name = ""  # this machine's, for EHLO
        self._now = self._tick_at = self._dated = monotonic()
        self._date = datetime.now(UTC)
        self.thread = threading.Thread(target=self._run, name="smtp", daemon=True)

    # --- for other threads --------------------------------------------------------------------------------------------

    def take(self, job: Job) -> None:
        self._inbox.append(job)
        self._ring()

    def stop(self) -> None:
        """Nothing new leaves; `thread` ends when the last answer is here, or after one time-out."""
        self._stopping = True
        self._ring()

    def forget(self) -> None:
        """In a child after a fork: closes its copies of the sockets. The connections remain the parent's."""
        for sock in (*(connection.sock for connection in self._connections), self._ear, self._bell):
            with suppress(OSError):
                sock.close()
        self._selector.close()

    def _ring(self) -> None:
        with suppress(OSError):  # full of rings that nobody has heard yet
            self._bell.send(b"!")

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            self._collapse(error)
            raise
        finally:
            for connection in list(self._connections):
                self._discard(connection)
            self._ear.close()
            self._bell.close()
            self._selector.close()

    def _turn(self) -> bool:
        """Waits for something to happen and deals with all of it; False when the engine has come to its end."""
        at_work = self._connections or self._urgent or self._bulk or self._stopping
        ready = self._selector.select(TICK if at_work else None)
        self._now = now = monotonic()
        if now - self._dated >= 1.0:
            self._date, self._dated = datetime.now(UTC), now  # one date a second: the envelope keeps it written out
        for key, events in ready:
            if (connection := key.data) is None:
                self._ear.recv(4096)
                continue
            try:  # as in _guarded, without its cost
                self._serve(connection, events)
            except (ProtocolError, OSError) as error:
                self._lose(connection, _reason(error))
        while self._inbox:
            self._queue(self._inbox.popleft())
        if now >= self._tick_at:
            self._tick_at = now + TICK
            for connection in list(self._connections):
                self._guarded(self._look_after, connection)
        if self._stopping:
            return self._wind_up()
        if self._urgent or self._bulk:
            while self._idle and (self._urgent or self._bulk):
                self._guarded(self._begin, self._idle.pop())
            if len(self._connections) < self._config.connections:
                self._open()
        self._tell()
        return True

    def _tell(self) -> None:
        """Before anything is waited for: answers go into the recorders, then finished jobs to those who wait."""
        try:
            while self._touched:
                self._touched.pop().flush()
        except OSError:  # the disk is full: no other message will leave, and these answers are in hand
            pass
        for job in self._finished:
            job.done.set()
        self._finished.clear()

    def _guarded(self, work: Callable[[_Connection], None], connection: _Connection) -> None:
        try:
            work(connection)
        except (ProtocolError, OSError) as error:
            self._lose(connection, _reason(error))

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.steady:  # nothing is left to be written
            self._read(connection)
        elif connection.closed:
            pass
        elif not connection.connected:
            self._connected(connection)
        elif connection.shaking_hands:
            self._shake_hands(connection)
        else:
            if connection.out is not None:
                self._write_rest(connection)
            if events & _READ:
                self._read(connection)

    def _look_after(self, connection: _Connection) -> None:
        """What has taken too long."""
        waited, limit = self._now - connection.since, float(self._config.timeout)
        if connection.quitting:
            if waited > FAREWELL:
                self._discard(connection)
        elif not connection.connected and connection.others and waited > min(limit, ADDRESS_WAIT):
            self._lose(connection, "no answer")
        elif connection.busy:
            if waited > limit:
                self._lose(connection, f"no answer within {limit:.0f} s", timed_out=True)
            elif connection.sent and connection.next and waited > min(STALL, limit / 2):
                mail, connection.next = connection.next, None
                connection.doomed, connection.steady = True, False
                self._again(mail, "", broken=False)
        elif waited > IDLE:
            self._quit(connection)

    def _wind_up(self) -> bool:
        """Nothing new leaves, answers are waited for, QUIT is said; False at the end."""
        self._gone_by = self._gone_by or self._now + self._config.timeout + FAREWELL
        late = self._now >= self._gone_by
        for job in (*self._urgent, *self._bulk):
            self._stop(job)
        for connection in list(self._connections):
            if late or (connection.busy and not connection.sent and not connection.quitting):
                if connection.next:
                    self._stop(connection.next.job)
                self._lose(connection, "the worker stopped before the answer came")
            elif not connection.busy:
                self._guarded(self._quit, connection)
        self._tell()
        return bool(self._connections)

    def _collapse(self, error: Exception) -> None:
        """A fault of this program: nobody is left waiting, and what is known stays known."""
        why = f"the smtp provider failed in a way that nobody foresaw ({type(error).__name__}: {shown(str(error))})"
        jobs = {*self._urgent, *self._bulk, *self._inbox}
        for connection in self._connections:
            jobs.update(mail.job for mail in (connection.sent, connection.next) if mail)
            if mail := connection.sent:
                mail.job.outcomes[mail.place] = _unanswered(connection, mail, why)
        for job in jobs.difference(self._finished):
            job.failure = ProviderRejected(f"{why}; please report it", outcomes=job.known())
            job.done.set()
        for job in self._finished:
            job.done.set()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _queue(self, job: Job, *, first: bool = False) -> None:
        """Behind the others of its kind, or before all of them."""
        if not job.queued and job.waiting:
            job.queued = True
            queue = self._urgent if job.letter.urgent else self._bulk
            if first:
                queue.appendleft(job)
            else:
                queue.append(job)

    def _pull(self, connection: _Connection) -> _Mail | None:
        """The next message for this connection, sealed; None when nobody waits.

        Recipients for whom no message can be made, or none that this server takes, are answered for on the way.
        """
        while queue := self._urgent or self._bulk:
            job = queue[0]
            if job.again:
                place = job.again.pop()
            elif job.place < len(job.recipients):
                place = job.place
                job.place += 1
            else:
                queue.popleft()
                job.queued = False
                continue
            recipient, letter = job.recipients[place], job.letter
            try:
                body = letter.envelope.seal(recipient, date=self._date)
                address, utf8 = letter.envelope.wire_address(recipient)
            except (AddressError, HeaderError) as error:
                self._refuse(job, place, str(error))
                continue
            offers = connection.offers
            if (utf8 or offers.size) and not self._carries(offers, job, place, len(body), utf8):
                continue
            job.flying += 1
            commands = letter.utf8_commands if utf8 else letter.commands
            key = recipient.key
            return _Mail(job, place, key, body, commands % (key.encode(), address.encode()))
        return None

    def _carries(self, offers: Offers, job: Job, place: int, size: int, utf8: bool) -> bool:
        """Whether the server takes a message of this kind; if not, it is answered for."""
        if offers.size and size > offers.size:
            self._reject(
                job,
                f"the message has {size:,} bytes and the server takes {offers.size:,}; make it smaller (images: link "
                "instead of embed), or ask who runs the server to allow more",
            )
            return False
        if utf8 and not offers.smtputf8:
            lack = "the server does not offer SMTPUTF8, so it cannot take letters outside ASCII before the @"
            if job.letter.utf8:
                self._reject(job, f"{lack}; write sender.address and sender.reply_to in ASCII")
            else:
                self._refuse(job, place, f"recipient {job.recipients[place].key}: {lack}")
            return False
        return True

    def _refuse(self, job: Job, place: int, why: str) -> None:
        job.outcomes[place] = Outcome(key=job.recipients[place].key, state="refused", detail=why)
        self._check(job)

    def _settle(self, mail: _Mail, outcome: Outcome | None) -> None:
        """The recipient leaves the hands of its connection, with an outcome or (None) not handed over."""
        job = mail.job
        if outcome:
            job.outcomes[mail.place] = outcome
        job.flying -= 1
        if not job.flying:
            self._check(job)

    def _answered(self, mail: _Mail, outcome: Outcome) -> None:
        """The fate of a message whose leaving the recorder was told of."""
        recorder = mail.job.recorder
        recorder.answered(outcome)
        self._touched.add(recorder)
        self._settle(mail, outcome)

    def _again(self, mail: _Mail, why: str, *, broken: bool = True) -> None:
        """Nothing of the message left, so it goes to another connection, a few times."""
        job, place = mail.job, mail.place
        if broken:
            job.tries[place] = job.tries.get(place, 0) + 1
        if job.over:
            self._settle(mail, None)
        elif job.tries.get(place, 0) >= TRIES:
            self._settle(mail, Outcome(key=mail.key, state="deferred", detail=why))
        else:
            job.flying -= 1
            job.again.append(place)
            self._queue(job, first=True)

    def _fail(self, job: Job, error: ProviderError) -> None:
        """Nothing of the job leaves any more; it ends when what is on its way is answered for."""
        job.failure = job.failure or error
        job.end()
        self._check(job)

    def _reject(self, job: Job, why: str) -> None:
        self._fail(job, ProviderRejected(self._at(why)))

    def _stop(self, job: Job) -> None:
        job.stopped = True
        job.end()
        self._check(job)

    def _check(self, job: Job) -> None:
        """Whether the job has come to its end."""
        if job.flying or job.waiting or job in self._finished:
            return
        if job.queued:
            job.queued = False
            (self._urgent if job.letter.urgent else self._bulk).remove(job)
        if job.failure:
            job.failure.outcomes = job.known()
        elif job.stopped:
            pairs = zip(job.recipients, job.outcomes, strict=True)
            job.outcomes = [had or Outcome(key=each.key, state="deferred", detail=STOPPING) for each, had in pairs]
        self._finished.append(job)

    def _at(self, why: str) -> str:
        return f"smtp {self._config.host}:{self._config.port}: {why}"

    # --- opening a connection -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Opens connections for the recipients that wait: one alone until the server has shown that it takes us."""
        if self._now < self._pause_until or not self._know_addresses():
            return
        coming = sum(not each.ready for each in self._connections)
        working = sum(each.ready and not each.quitting for each in self._connections)
        wanted = sum(job.waiting for job in (*self._urgent, *self._bulk)) if working and not self._failures else 1
        for _ in range(min(wanted - coming, self._config.connections - len(self._connections))):
            self._connect(list(self._addresses))

    def _know_addresses(self) -> bool:
        """Whether the server's addresses are known. If not, a thread looks them up, since that may take long."""
        found = self._found.popleft() if self._found else None
        if isinstance(found, list):
            self._addresses, self._looked_at, self._looking_since = found, self._now, 0.0
        elif found:
            self._looking_since = 0.0
            self._come_to_nothing(
                ProviderDown(
                    f"the name {self._config.host} cannot be looked up ({_reason(found)}); check smtp.host, and "
                    "that this machine is on the network"
                )
            )
        elif self._looking_since and self._now - self._looking_since > self._config.timeout:
            self._looking_since = 0.0
            self._come_to_nothing(
                ProviderDown(f"the name {self._config.host} could not be looked up in time; is the network up?")
            )
        elif not self._looking_since and (not self._addresses or self._now - self._looked_at > NAMES_KEPT):
            self._looking_since = self._now
            threading.Thread(target=self._look_up, name="smtp look-up", daemon=True).start()
        return bool(self._addresses) and not self._looking_since

    def _look_up(self) -> None:
        try:
            self._name = self._name or _own_name()
            self._found.append(socket.getaddrinfo(self._config.host, self._config.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            self._found.append(error)
        self._ring()

    def _connect(self, addresses: list[Any]) -> None:
        address, *others = addresses
        try:
            sock = socket.socket(*address[:3])
        except OSError as error:  # a family that this machine does not speak, or no file descriptor left
            if others:
                self._connect(others)
            else:
                self._come_to_nothing(ProviderDown(f"no connection can be opened: {_reason(error)}"))
            return
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock, address, others, self._now)
        self._connections.add(connection)
        self._selector.register(sock, _WRITE, connection)
        try:
            sock.connect(address[4])
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(connection, _reason(error))

    def _connected(self, connection: _Connection) -> None:
        if code := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        connection.connected, connection.since = True, self._now
        if connection.address in self._addresses[1:]:  # the next connection begins with what answered
            self._addresses.remove(connection.address)
            self._addresses.insert(0, connection.address)
        here, there = (
            ipaddress.ip_address(end[0].partition("%")[0])
            for end in (connection.sock.getsockname(), connection.sock.getpeername())
        )
        literal = f"[{'IPv6:' if here.version == 6 else ''}{here}]"  # RFC 5321 §4.1.3
        connection.dialogue = opening(self._config, name=self._name or literal, local=there.is_loopback)
        next(connection.dialogue)
        connection.expected.append("opening")
        if self._config.security == "tls":
            self._encrypt(connection)
        else:
            self._watch(connection, _READ)

    def _encrypt(self, connection: _Connection) -> None:
        self._tls = self._tls or ssl.create_default_context()
        self._selector.unregister(connection.sock)
        connection.sock = self._tls.wrap_socket(
            connection.sock, server_hostname=self._config.host, do_handshake_on_connect=False
        )
        connection.events = _READ
        self._selector.register(connection.sock, _READ, connection)
        connection.shaking_hands = True
        self._shake_hands(connection)

    def _shake_hands(self, connection: _Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        try:
            connection.sock.do_handshake()
        except ssl.SSLWantReadError:
            return self._watch(connection, _READ)
        except ssl.SSLWantWriteError:
            return self._watch(connection, _BOTH)
        connection.shaking_hands, connection.encrypted, connection.since = False, True, self._now
        self._watch(connection, _READ)
        if self._config.security == "starttls":
            return self._converse(connection, NO_REPLY)
        return self._read(connection)

    def _converse(self, connection: _Connection, reply: Reply) -> None:
        """One step of the opening dialogue."""
        assert connection.dialogue is not None
        try:
            octets = connection.dialogue.send(reply)
        except StopIteration as end:
            connection.offers, connection.ready, connection.dialogue = end.value, True, None
        except ProviderError as error:
            with suppress(OSError):
                connection.sock.send(b"QUIT\r\n")
            self._discard(connection)
            self._come_to_nothing(error)
        else:
            if octets is not None:
                connection.expected.append("opening")
                self._write(connection, octets)
            elif connection.replies.waiting:  # it would be taken for the words of the encrypted server
                raise ProtocolError("the server went on in clear after STARTTLS")
            else:
                self._encrypt(connection)

    def _come_to_nothing(self, error: ProviderError, *, patience: int = 1) -> None:
        """A connection was of no use. Jobs fail when there is no other, and after `patience` such connections."""
        others = any(not each.quitting for each in self._connections)
        longest = LONG_PAUSE if any(each.served for each in self._connections) else LONGEST_PAUSE
        self._pause_until = self._now + min(longest, FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        if not others and self._failures >= patience:
            for job in (*self._urgent, *self._bulk):
                self._fail(job, type(error)(self._at(str(error))))

    # --- ending a connection ------------------------------------------------------------------------------------------

    def _quit(self, connection: _Connection) -> None:
        self._idle.discard(connection)
        connection.quitting = True
        connection.expected.append("quit")
        self._write(connection, b"QUIT\r\n")

    def _discard(self, connection: _Connection) -> None:
        connection.closed = True
        self._connections.discard(connection)
        self._idle.discard(connection)
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(connection.sock)
        with suppress(OSError):
            connection.sock.close()

    def _lose(self, connection: _Connection, why: str, *, timed_out: bool = False) -> None:
        """The connection is at its end, and so is what was in its hands."""
        if connection.closed:
            return
        self._discard(connection)
        if not connection.connected and connection.others:
            self._connect(connection.others)
            return
        sent, following = connection.sent, connection.next
        connection.sent = connection.next = None
        if sent:
            self._answered(sent, _unanswered(connection, sent, why))
        if following:
            if timed_out and not sent:
                self._settle(following, Outcome(key=following.key, state="deferred", detail=why))
            else:
                self._again(following, why)
        if not connection.ready:
            hint = "check smtp.host, smtp.port and smtp.security, and that the server runs"
            self._come_to_nothing(ProviderDown(f"{why}; {hint}"))
        elif (sent or following) and not connection.served:
            self._come_to_nothing(ProviderDown(f"{why}; try again later"), patience=TRIES)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, connection: _Connection, octets: bytes, more: bytes = b"") -> None:
        _check_step(connection)
        connection.steady, connection.since = False, self._now
        taken = 0
        if not connection.encrypted:
            try:
                taken = connection.sock.sendmsg((octets, more)) if more else connection.sock.send(octets)
            except BlockingIOError:
                pass
            except OSError:
                connection.out = memoryview(octets + more)  # none of it left
                raise
        if taken < len(octets) + len(more):
            connection.out = memoryview(octets + more)[taken:]
            self._write_rest(connection)

    def _write_rest(self, connection: _Connection) -> None:
        while connection.out is not None:
            try:
                taken = connection.sock.send(connection.out)
            except _NOT_NOW:
                return self._watch(connection, _BOTH)
            connection.since = self._now
            connection.out = connection.out[taken:] if taken < len(connection.out) else None
        return self._watch(connection, _READ)

    def _watch(self, connection: _Connection, events: int) -> None:
        if connection.events != events:
            connection.events = events
            self._selector.modify(connection.sock, events, connection)

    def _begin(self, connection: _Connection) -> None:
        """The envelope of the next recipient, or rest."""
        mail = self._pull(connection)
        if not mail:
            self._idle.add(connection)
            connection.since = self._now
            return
        connection.next, connection.rcpt_refused = mail, False
        commands = b"RSET\r\n" + mail.commands if connection.reset else mail.commands
        if connection.offers.pipelining:
            connection.expected.extend(("rset", *_ENVELOPE) if connection.reset else _ENVELOPE)
            self._write(connection, commands)
        else:
            connection.commands.extend(commands.splitlines(keepends=True))
            self._write_command(connection)

    def _write_command(self, connection: _Connection) -> None:
        command = connection.commands.popleft()
        connection.expected.append(command[:4].decode().lower())
        self._write(connection, command)

    def _write_body(self, connection: _Connection) -> None:
        """The message whose envelope was taken, and the envelope of the next behind it."""
        _check_step(connection)  # before the recorder is told
        mail = connection.next
        assert mail is not None
        job = mail.job
        following = self._pull(connection) if connection.quick and connection.offers.pipelining else None
        try:
            leaves = not job.over and not self._stopping and job.recorder.leaving(mail.key)
        except OSError as error:
            leaves = False
            self._fail(job, ProviderDown(f"the flight recorder cannot be written ({_reason(error)}); free some space"))
        if not leaves:
            if following:
                self._again(following, "", broken=False)
            if not job.failure:
                self._stop(job)
            connection.next = None
            self._settle(mail, None)
            self._discard(connection)  # after DATA there is no other way to keep the message back
            return
        connection.sent, connection.next = mail, following
        if following:
            connection.rcpt_refused, connection.tail = False, len(following.commands)
            connection.expected.extend(_AHEAD)
            self._write(connection, mail.body, b".\r\n" + following.commands)
        else:
            connection.tail = 0
            connection.expected.append("dot")
            self._write(connection, mail.body, b".\r\n")
        mail.body = b""
        connection.steady = following is not None and connection.out is None

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, connection: _Connection) -> None:
        try:
            octets = connection.sock.recv(8192)
        except _NOT_NOW:
            return
        if not octets:
            self._lose(connection, "the server closed the connection")
            return
        if isinstance(connection.sock, ssl.SSLSocket):
            while more := connection.sock.pending():
                octets += connection.sock.recv(more)
        if connection.steady and (mail := connection.sent):
            words, _, rest = octets.partition(b"\r\n")
            if (rest == connection.usual and words[:4] == b"250 ") or STEADY.fullmatch(octets):
                connection.usual, connection.sent = rest, None
                connection.expected.clear()
                self._taken(connection, mail, words[4:].decode(errors="replace"))
                self._write_body(connection)
                return
            connection.steady = False
        replies = connection.replies
        replies.add(octets)
        while not connection.closed and (reply := replies.next()):
            self._hear(connection, reply)
        if not connection.closed and connection.ready and not connection.busy:
            if connection.commands:
                self._write_command(connection)
            else:
                self._begin(connection)

    def _taken(self, connection: _Connection, mail: _Mail, words: str) -> None:
        connection.quick = self._now - connection.since < QUICK
        if not connection.served:
            connection.served, self._failures = True, 0
        self._answered(mail, Outcome(mail.key, "accepted", reference(words)))

    def _hear(self, connection: _Connection, reply: Reply) -> None:
        """One reply, matched to its command."""
        if connection.ready and reply.closing and not connection.quitting:
            if sent := connection.sent:  # it may be an answer to the dot or to nothing: the message was not taken
                connection.sent = None
                self._answered(sent, Outcome(key=sent.key, state="deferred", detail=str(reply)))
            self._lose(connection, f"the server closed the connection: {reply}")
            return
        if not connection.expected:
            raise ProtocolError(f"the server spoke unasked: {reply}")
        command = connection.expected.popleft()
        match command:
            case "opening":
                self._converse(connection, reply)
            case "mail" | "rcpt" | "data":
                self._hear_of_envelope(connection, command, reply)
            case "dot":
                self._hear_of_message(connection, reply)
            case "rset" if not reply.good:
                raise ProtocolError(f"the server refuses RSET: {reply}")
            case "rset":
                connection.reset = False
            case "quit":
                self._discard(connection)
        connection.since = self._now

    def _hear_of_envelope(self, connection: _Connection, command: Command, reply: Reply) -> None:
        mail = connection.next
        if command == "data" and reply.code == 354:
            if mail:
                self._write_body(connection)
            elif connection.rcpt_refused:  # a message for nobody (RFC 2920 §3.1)
                connection.expected.append("lone dot")
                self._write(connection, b".\r\n")
            else:  # its MAIL was refused, and yet the server would take a message
                self._discard(connection)
            return
        if reply.good and command != "data":
            return
        means = meaning(reply, command) if mail else "refused"
        connection.reset = True
        connection.commands.clear()
        if command == "rcpt":
            connection.rcpt_refused = True
            if not connection.served:
                connection.served, self._failures = True, 0
        if not mail:  # it was refused already
            return
        connection.next = None
        if means == "rejected":
            self._reject(mail.job, f"{reply}{_HINT}")
            self._settle(mail, None)
        else:
            self._settle(mail, Outcome(key=mail.key, state=means, detail=str(reply)))

    def _hear_of_message(self, connection: _Connection, reply: Reply) -> None:
        mail = connection.sent
        assert mail is not None
        means = meaning(reply, "dot")
        early = not connection.dot_left
        if early and means == "accepted":
            raise ProtocolError(f"the server is out of step: it took a message before its end: {reply}")
        connection.sent = None
        if means == "accepted":
            self._taken(connection, mail, reply.text)
        elif means == "rejected":
            self._reject(mail.job, f"{reply}{_HINT}")
            self._answered(mail, Outcome(key=mail.key, state="deferred", detail=str(reply)))
        else:
            self._answered(mail, Outcome(key=mail.key, state=means, detail=str(reply)))
        if early:
            self._lose(connection, "the server answered before the end of a message")
        elif connection.doomed:
            self._discard(connection)


_HINT = "; this is about the sender, the account or the message, not about a recipient: mend it there"


def _check_step(connection: _Connection) -> None:
    if connection.out is not None or connection.replies.waiting:
        raise ProtocolError("the server is out of step: it answered what it was not asked")


def _unanswered(connection: _Connection, mail: _Mail, why: str) -> Outcome:
    if connection.dot_left:
        return Outcome(key=mail.key, state="in_doubt", detail=f"handed over, and then: {why}")
    return Outcome(key=mail.key, state="deferred", detail=f"broken off before its end: {why}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"the encryption failed ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")


def _own_name() -> str:
    """This machine's full name for EHLO, or "" when it has none."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    return name if _HOST_NAME.fullmatch(name) else ""
