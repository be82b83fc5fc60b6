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
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from newsletter.config import Smtp
from newsletter.errors import ProviderDown, ProviderError, ProviderRejected
from newsletter.providers import Outcome
from newsletter.providers.smtp_jobs import TRIES, Job, Jobs, Mail
from newsletter.providers.smtp_poll import BOTH, READ, WRITE, Poller
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
ADDRESS_WAIT = 10.0  # seconds for one of a server's addresses while others are left
NAMES_KEPT = 60.0  # seconds for which addresses are used before the server's name is looked up again
MOST_PIECES = 1000  # for one sendmsg; the system's limit, IOV_MAX, is 1024 on Linux and on macOS
SEND_BUFFER = 1 << 20  # octets: a whole message is then one system call, and its fate is known at once


# --- connections ------------------------------------------------------------------------------------------------------

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
        self.events = WRITE
        self.out: memoryview | None = None  # what the kernel has not taken yet
        self.tail = 0  # octets that were written behind the last final dot
        self.sent: Mail | None = None
        self.next: Mail | None = None
        self.rcpt_refused = False  # in the envelope that was written last
        self.reset = False  # the next envelope begins with RSET
        self.doomed = False  # its envelope went elsewhere: closed as soon as the answer to the dot is here
        self.steady = False  # the replies to come should be those of STEADY …
        self.usual: bytes | None = None  # … and after the first line these, as the last time
        self.words, self.reference = b"", ""  # the line that took a message last, and the id in it
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
        self._jobs = Jobs(f"smtp {config.host}:{config.port}")
        self._poller: Poller[_Connection | None] = Poller()
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._poller.watch(self._ear, READ, None)
        self._inbox: deque[Job] = deque()
        self._stopping = False
        self._gone_by = 0.0  # when it stops: the time by which it must have ended
        self._connections: set[_Connection] = set()
        self._idle: set[_Connection] = set()
        self._failures = 0  # connections that came to nothing, one after the other
        self._pause_until = 0.0
        self._found: deque[list[Any] | Exception] = deque()  # what the look-up of the server's name brought
        self._looking_since = self._looked_at = 0.0
        self._addresses: list[Any] = []
        self._name = ""  # this machine's, for EHLO
        self._now = self._tick_at = monotonic()
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
        self._poller.close()

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
            self._poller.close()

    def _turn(self) -> bool:
        """Waits for something to happen and deals with all of it; False when the engine has come to its end."""
        ready = self._poller.wait(TICK if self._connections or self._jobs or self._stopping else None)
        self._now = monotonic()
        calm = self._now < self._tick_at  # nothing happened but what happens all the time
        for connection, events in ready:
            if connection is None:
                self._ear.recv(4096)
                calm = False
                continue
            try:  # as in _guarded, without its cost
                if connection.steady:  # nothing is left to be written
                    self._read(connection)
                else:
                    self._serve(connection, events)
            except (ProtocolError, OSError) as error:
                self._lose(connection, reason(error))
            calm = calm and connection.steady
        if calm and not self._jobs.finished:
            return True
        if self._now >= self._tick_at:
            self._tick_at = self._now + TICK
            for connection in list(self._connections):
                self._guarded(self._look_after, connection)
        while self._inbox:
            self._jobs.take(self._inbox.popleft())
        if self._stopping:
            return self._wind_up()
        if self._jobs:
            while self._idle and self._jobs:
                self._guarded(self._begin, self._idle.pop())
            if len(self._connections) < self._config.connections:
                self._open()
        if self._jobs.finished:
            self._jobs.tell()
        return True

    def _guarded(self, work: Callable[[_Connection], None], connection: _Connection) -> None:
        try:
            work(connection)
        except (ProtocolError, OSError) as error:
            self._lose(connection, reason(error))

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.closed:
            pass
        elif not connection.connected:
            self._connected(connection)
        elif connection.shaking_hands:
            self._shake_hands(connection)
        else:
            if events & ~WRITE:  # first: a server that closes the connection may have said why
                self._read(connection)
            if events & ~READ and connection.out is not None and not connection.closed:
                self._write_rest(connection)

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
                self._jobs.again(mail, "", broken=False)
        elif waited > IDLE:
            self._quit(connection)

    def _wind_up(self) -> bool:
        """Nothing new leaves, answers are waited for, QUIT is said; False at the end."""
        self._gone_by = self._gone_by or self._now + self._config.timeout + FAREWELL
        late = self._now >= self._gone_by
        for job in self._jobs.all():
            self._jobs.stop(job)
        for connection in list(self._connections):
            if late or (connection.busy and not connection.sent and not connection.quitting):
                if connection.next:
                    self._jobs.stop(connection.next.job)
                self._lose(connection, "the worker stopped before the answer came")
            elif not connection.busy:
                self._guarded(self._quit, connection)
        self._jobs.tell()
        return bool(self._connections)

    def _collapse(self, error: Exception) -> None:
        """A fault of this program: nobody is left waiting, and what is known stays known."""
        why = f"the smtp provider failed in a way that nobody foresaw ({type(error).__name__}: {shown(str(error))})"
        jobs = {*self._jobs.all(), *self._inbox}
        for connection in self._connections:
            jobs.update(mail.job for mail in (connection.sent, connection.next) if mail)
            if mail := connection.sent:
                mail.job.outcomes[mail.place] = _unanswered(connection, mail, why)
        for job in jobs.difference(self._jobs.finished):
            job.failure = ProviderRejected(f"{why}; please report it", outcomes=job.known())
            job.done.set()
        for job in self._jobs.finished:
            job.done.set()

    # --- opening a connection -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Opens connections for the recipients that wait: one alone until the server has shown that it takes us."""
        if self._now < self._pause_until or not self._know_addresses():
            return
        coming = sum(not each.ready for each in self._connections)
        working = sum(each.ready and not each.quitting for each in self._connections)
        wanted = sum(job.waiting for job in self._jobs.all()) if working and not self._failures else 1
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
                    f"the name {self._config.host} cannot be looked up ({reason(found)}); check smtp.host, and "
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
            self._name = self._name or own_name()
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
                self._come_to_nothing(ProviderDown(f"no connection can be opened: {reason(error)}"))
            return
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock, address, others, self._now)
        self._connections.add(connection)
        self._poller.watch(sock, WRITE, connection)
        try:
            sock.connect(address[4])
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(connection, reason(error))

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
            self._watch(connection, READ)

    def _encrypt(self, connection: _Connection) -> None:
        self._tls = self._tls or ssl.create_default_context()
        connection.sock = self._tls.wrap_socket(
            connection.sock, server_hostname=self._config.host, do_handshake_on_connect=False
        )
        self._watch(connection, READ)
        connection.shaking_hands = True
        self._shake_hands(connection)

    def _shake_hands(self, connection: _Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        try:
            connection.sock.do_handshake()
        except ssl.SSLWantReadError:
            return self._watch(connection, READ)
        except ssl.SSLWantWriteError:
            return self._watch(connection, BOTH)
        connection.shaking_hands, connection.encrypted, connection.since = False, True, self._now
        self._watch(connection, READ)
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
                _check_step(connection)
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
            for job in self._jobs.all():
                self._jobs.fail(job, type(error)(f"{self._jobs.where}: {error}"))

    # --- ending a connection ------------------------------------------------------------------------------------------

    def _quit(self, connection: _Connection) -> None:
        self._idle.discard(connection)
        connection.quitting = True
        connection.expected.append("quit")
        self._write(connection, b"QUIT\r\n")

    def _discard(self, connection: _Connection) -> None:
        connection.closed, connection.steady = True, False
        self._connections.discard(connection)
        self._idle.discard(connection)
        self._poller.forget(connection.sock)
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
            self._jobs.answered(sent, _unanswered(connection, sent, why))
        if following:
            if timed_out and not sent:
                self._jobs.settle(following, Outcome(key=following.key, state="deferred", detail=why))
            else:
                self._jobs.again(following, why)
        if not connection.ready:
            hint = "check smtp.host, smtp.port and smtp.security, and that the server runs"
            self._come_to_nothing(ProviderDown(f"{why}; {hint}"))
        elif (sent or following) and not connection.served:
            self._come_to_nothing(ProviderDown(f"{why}; try again later"), patience=TRIES)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, connection: _Connection, octets: bytes) -> None:
        self._write_all(connection, (octets,), len(octets))

    def _write_all(self, connection: _Connection, pieces: tuple[bytes, ...], size: int) -> None:
        """To be called when nothing of the server's is unread: its answers would be taken for those to this."""
        connection.since = self._now
        taken = 0
        if len(pieces) > MOST_PIECES:  # of a message with hundreds of slots
            pieces = (b"".join(pieces),)
        if not connection.encrypted:
            try:
                taken = connection.sock.sendmsg(pieces)
            except BlockingIOError:
                pass
            except OSError:
                connection.out = memoryview(b"".join(pieces))  # none of it left
                raise
        if taken < size:
            connection.out = memoryview(b"".join(pieces))[taken:]
            self._write_rest(connection)

    def _write_rest(self, connection: _Connection) -> None:
        while connection.out is not None:
            try:
                taken = connection.sock.send(connection.out)
            except _NOT_NOW:
                return self._watch(connection, BOTH)
            connection.since = self._now
            connection.out = connection.out[taken:] if taken < len(connection.out) else None
        return self._watch(connection, READ)

    def _watch(self, connection: _Connection, events: int) -> None:
        if connection.events != events:
            connection.events = events
            self._poller.watch(connection.sock, events, connection)

    def _begin(self, connection: _Connection) -> None:
        """The envelope of the next recipient, or rest."""
        _check_step(connection)
        mail = self._jobs.pull(connection.offers)
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
        _check_step(connection)
        command = connection.commands.popleft()
        connection.expected.append(command[:4].decode().lower())
        self._write(connection, command)

    def _write_body(self, connection: _Connection) -> None:
        """The message whose envelope was taken, and the envelope of the next behind it."""
        mail = connection.next
        assert mail is not None
        if not self._announced(mail, None):
            self._keep_back(connection, mail)
            return
        ahead = connection.quick and connection.offers.pipelining
        following = self._jobs.pull(connection.offers) if ahead else None
        connection.sent, connection.next = mail, following
        if following:
            connection.rcpt_refused = False
            connection.expected.extend(_AHEAD)
        else:
            connection.expected.append("dot")
        self._write_message(connection, mail, following.commands if following else b"")
        connection.steady = following is not None and connection.out is None

    def _announced(self, mail: Mail, answered: Outcome | None) -> bool:
        """Whether the message may leave; its recorder knows then, and what was answered before."""
        job = mail.job
        try:
            return not self._stopping and not job.over and job.recorder.leaving(mail.key, answered=answered)
        except OSError as error:
            why = f"the flight recorder cannot be written ({reason(error)}); free some space"
            self._jobs.fail(job, ProviderDown(why))
            return False

    def _keep_back(self, connection: _Connection, mail: Mail) -> None:
        if not mail.job.failure:
            self._jobs.stop(mail.job)
        connection.next = None
        self._jobs.settle(mail, None)
        self._discard(connection)  # after DATA there is no other way to keep the message back

    def _write_message(self, connection: _Connection, mail: Mail, behind: bytes) -> None:
        connection.tail = len(behind)
        self._write_all(connection, (*mail.pieces, b".\r\n" + behind), mail.size + 3 + len(behind))

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
        if connection.steady:
            if self._go_on(connection, octets):
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

    def _go_on(self, connection: _Connection, octets: bytes) -> bool:
        """What a connection at work does again and again: the message was taken, and so was the envelope behind it, so
        the next message leaves with another envelope behind it. False when the server said anything else; then nothing
        was done.

        It is what `_hear`, `_taken` and `_write_body` would do, in one piece, since it is done for every message.
        """
        words, _, rest = octets.partition(b"\r\n")
        if rest != connection.usual or words[:4] != b"250 ":
            if not STEADY.fullmatch(octets):
                return False
            connection.usual = rest
        if words != connection.words:
            connection.words, connection.reference = words, reference(words[4:].decode(errors="replace"))
        sent, mail, now = connection.sent, connection.next, self._now
        assert sent is not None and mail is not None  # noqa: PT018
        job, outcome = sent.job, _outcome(Outcome, (sent.key, "accepted", connection.reference, ""))
        sealed = job.sealed
        if (
            mail.job is job
            and sealed
            and connection.served
            and not self._jobs.urgent
            and now - connection.since < QUICK
            and (following := sealed[0]).size <= connection.offers.size
            and not following.utf8
            and self._announced(mail, outcome)
        ):
            job.outcomes[sent.place] = outcome
            connection.sent, connection.next = mail, sealed.popleft()
            self._write_message(connection, mail, following.commands)
            connection.steady = connection.out is None
        else:
            job.recorder.answered(outcome)
            connection.expected.clear()
            self._taken(connection, sent, outcome)
            self._write_body(connection)
        return True

    def _taken(self, connection: _Connection, mail: Mail, outcome: Outcome) -> None:
        connection.sent = None
        connection.quick = self._now - connection.since < QUICK
        if not connection.served:
            connection.served, self._failures = True, 0
        self._jobs.settle(mail, outcome)

    def _hear(self, connection: _Connection, reply: Reply) -> None:
        """One reply, matched to its command."""
        if connection.ready and reply.closing and not connection.quitting:
            if sent := connection.sent:  # it may be an answer to the dot or to nothing: the message was not taken
                connection.sent = None
                self._jobs.answered(sent, Outcome(key=sent.key, state="deferred", detail=str(reply)))
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
            _check_step(connection)
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
            self._jobs.reject(mail.job, f"{reply}{HINT}")
            self._jobs.settle(mail, None)
        else:
            self._jobs.settle(mail, Outcome(key=mail.key, state=means, detail=str(reply)))

    def _hear_of_message(self, connection: _Connection, reply: Reply) -> None:
        mail = connection.sent
        assert mail is not None
        means = meaning(reply, "dot")
        early = not connection.dot_left
        if early and means == "accepted":
            raise ProtocolError(f"the server is out of step: it took a message before its end: {reply}")
        connection.sent = None
        if means == "accepted":
            outcome = Outcome(mail.key, "accepted", reference(reply.text))
            mail.job.recorder.answered(outcome)
            self._taken(connection, mail, outcome)
        elif means == "rejected":
            self._jobs.reject(mail.job, f"{reply}{HINT}")
            self._jobs.answered(mail, Outcome(key=mail.key, state="deferred", detail=str(reply)))
        else:
            self._jobs.answered(mail, Outcome(key=mail.key, state=means, detail=str(reply)))
        if early:
            self._lose(connection, "the server answered before the end of a message")
        elif connection.doomed:
            self._discard(connection)


_outcome = tuple.__new__  # without the two calls that a named tuple takes
HINT = "; this is about the sender, the account or the message, not about a recipient: mend it there"


def _check_step(connection: _Connection) -> None:
    if connection.out is not None or connection.replies.waiting:
        raise ProtocolError("the server is out of step: it answered what it was not asked")


def _unanswered(connection: _Connection, mail: Mail, why: str) -> Outcome:
    if connection.dot_left:
        return Outcome(key=mail.key, state="in_doubt", detail=f"handed over, and then: {why}")
    return Outcome(key=mail.key, state="deferred", detail=f"broken off before its end: {why}")


def reason(error: Exception) -> str:
    """Why a connection came to nothing, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"the encryption failed ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")


def own_name() -> str:
    """This machine's full name for EHLO, or "" when it has none."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    return name if _HOST_NAME.fullmatch(name) else ""
