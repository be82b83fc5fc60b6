"""The flight recorder: what was about to leave and what was answered, kept where a kill -9 cannot take it.

With SMTP a commit for every message would cost more than the mail. A worker writes two short lines a message instead,
into a file of its own for each lease: one when a message is about to leave, one when its answer came. The file is
mapped into memory, so a line costs no system call, and what was stored there belongs to the system: it survives the
death of the process (not of the machine, which is why the first line names the boot).

The file grows by blocks of zeros that are written before they are used, so a full disk is an error before anything
leaves. What stands before the first zero has been told.

The writer holds an exclusive `flock` on the file as long as it lives, and being stopped is living. Whoever gets the
lock therefore knows that the writer is dead and that what it announced is all that ever left (`read_evidence`).

Lines hold delivery keys and the words of providers, never an address.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import platform
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import time, time_ns
from typing import Literal, NamedTuple

State = Literal["accepted", "refused", "deferred", "in_doubt"]
STATES = ("accepted", "refused", "deferred", "in_doubt")
BLOCK = 1 << 16  # octets by which a recorder grows


class Outcome(NamedTuple):
    """What a provider says at once about one recipient. A refused recipient is an outcome, never an exception.

    A tuple, since there are tens of thousands a second and a frozen dataclass takes three times as long to make.
    """

    key: str  # the recipient's
    state: State  # deferred: this one may be tried again; in_doubt: handed over, answer lost
    provider_ref: str = ""  # the id under which the provider took it
    detail: str = ""  # the provider's words, or the reason; never holds an address


@dataclass(kw_only=True)
class Lease:
    """The time for which a worker may send a batch. Renewed by the worker's heartbeat, read before every message."""

    batch: int
    epoch: int
    until: float  # Unix seconds
    margin: float = 2.0  # seconds before the end from which nothing new leaves
    stopping: bool = False  # the worker was told to finish what is in hand

    def open(self) -> bool:
        return not self.stopping and time() < self.until - self.margin


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the recorder of a dead writer tells."""

    store: str  # id of the database that the lease was of
    batch: int
    epoch: int
    same_boot: bool  # False: this machine was started again since, so a missing line proves nothing
    left: frozenset[str]  # keys announced
    answers: dict[str, Outcome] = field(default_factory=dict)


class Recorder:
    """The file of one lease. May be used from several threads. Raises `OSError` when the disk says no.

    Open it after any fork: a lock is shared with children.
    """

    def __init__(self, folder: Path, lease: Lease, *, store: str, owner: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{lease.batch}-{lease.epoch}.recorder"
        self.lease = lease
        with suppress(FileNotFoundError):  # left by a database that this one is an older copy of: kept, out of the way
            os.rename(self.path, self.path.with_suffix(f".{time_ns()}.former"))
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._end = self._room = 0  # octets used, and octets mapped
        self._late = b""  # answers for which the disk had no room
        self._left = 0  # announced so far
        head = {"store": store, "batch": lease.batch, "epoch": lease.epoch, "owner": owner, **this_machine()}
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._write(f"{json.dumps(head)}\n".encode())
        except OSError:
            os.close(self._file)
            self.path.unlink(missing_ok=True)
            raise

    @property
    def left(self) -> int:
        """How many messages were announced under this lease."""
        return self._left

    def leaving(self, key: str, *, answered: Outcome | None = None) -> bool:
        """To be called right before the first octet of a message's body leaves.

        False: it must not leave, since the lease is over or the worker stops. Its outcome is then `deferred`, and
        nothing is written. `answered` is the fate of a message before, told in one stroke.
        """
        with self._lock:
            if answered:
                self._late += _answer(answered)
            if not self.lease.open():
                self._catch_up()
                return False
            lines = b"%b>%b\n" % (self._late, key.encode())
            end = self._end + len(lines)  # as _write does, once for each message
            if end > self._room:
                self._grow(end)
            self._lines[self._end : end] = lines
            self._end, self._late = end, b""
            self._left += 1
        return True

    def leaving_all(self, keys: Sequence[str]) -> int:
        """`leaving` for the messages of one request, in one stroke: how many of them may leave, from the first on."""
        with self._lock:
            if not self.lease.open():
                self._catch_up()
                return 0
            self._write(b"%b>%b\n" % (self._late, "\n>".join(keys).encode()) if keys else self._late)
            self._late = b""
            self._left += len(keys)
        return len(keys)

    def answered(self, outcome: Outcome) -> None:
        """To be called as soon as the fate of a message that was announced is known.

        Never fails: an answer for which the disk has no room is written with the next announcement, before which
        nothing leaves.
        """
        with self._lock:
            self._late += _answer(outcome)
            self._catch_up()

    def answered_all(self, outcomes: Sequence[Outcome]) -> None:
        """`answered` for the messages of one request, in one stroke."""
        if len({outcome[1:] for outcome in outcomes}) == 1:  # as a rule: one answer for all
            end = _answer(outcomes[0])[1 + len(outcomes[0].key.encode()) :].decode()
            lines = "".join([f"<{outcome.key}{end}" for outcome in outcomes]).encode()
        else:
            lines = b"".join(map(_answer, outcomes))
        with self._lock:
            self._late += lines
            self._catch_up()

    def _catch_up(self) -> None:
        with suppress(OSError):
            self._write(self._late)
            self._late = b""

    def _write(self, lines: bytes) -> None:
        end = self._end + len(lines)
        if end > self._room:
            self._grow(end)
        self._lines[self._end : end] = lines
        self._end = end

    def _grow(self, least: int) -> None:
        """Room for so many octets. What was written stays where it is."""
        room = self._room
        while room < least:
            written = os.pwrite(self._file, bytes(BLOCK), room)
            if written < BLOCK:  # the last octets that the disk had room for
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            room += BLOCK
        self._lines, self._room = mmap.mmap(self._file, room), room

    def close(self) -> None:
        """Lets go of the file and leaves it where it is, as evidence. Closing twice is fine."""
        with self._lock:
            file, self._file = self._file, -1  # the number may be another file's by the next call
        if file < 0:
            return
        with self._lock, suppress(OSError):
            self._catch_up()
            self._room = 0  # who still writes finds no room, and no file to make some
            self._lines.close()
            os.ftruncate(file, self._end)
        os.close(file)

    def remove(self) -> None:
        """The result stands in the ledger: the file has served."""
        self.path.unlink(missing_ok=True)
        self.close()


def _answer(outcome: Outcome) -> bytes:
    key, state, ref, detail = outcome
    if not (ref + detail).isprintable():
        ref, detail = _one_line(ref), _one_line(detail)
    return f"<{key}\t{state}\t{ref}\t{detail}\n".encode(errors="replace")


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def read_evidence(path: Path) -> Evidence | None:
    """What a recorder tells, or None while its writer lives, when it is of another machine, or is no recorder.

    A last line that was cut is not counted. Raises `OSError` when the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        head, *lines = file.read().partition(b"\0")[0].split(b"\n")
    try:
        named = json.loads(head)
        here = this_machine()
        if named["machine"] != here["machine"]:
            return None
        store, batch, epoch, boot = str(named["store"]), int(named["batch"]), int(named["epoch"]), named["boot"]
    except (ValueError, KeyError, TypeError):
        return None
    left: set[str] = set()
    answers: dict[str, Outcome] = {}
    for line in lines[:-1]:
        text = line.decode(errors="replace")
        if text.startswith(">"):
            left.add(text[1:])
            answers.pop(text[1:], None)  # announced once more: the former answer says nothing about this time
        elif text.startswith("<"):
            key, state, ref, detail = [*text[1:].split("\t"), "", "", ""][:4]
            if state in STATES:
                answers[key] = Outcome(key=key, state=state, provider_ref=ref, detail=detail)  # type: ignore[arg-type]
    same_boot = bool(boot) and boot == here["boot"]
    return Evidence(store=store, batch=batch, epoch=epoch, same_boot=same_boot, left=frozenset(left), answers=answers)


def recorder_paths(folder: Path) -> list[Path]:
    """The recorders in a folder, whoever wrote them, oldest lease first."""
    return sorted(folder.glob("*.recorder"), key=lambda path: (len(path.name), path.name))


@lru_cache(maxsize=1)
def this_machine() -> dict[str, str]:
    """Which machine this is, and which start of it ("" where the system does not tell)."""
    return {
        "machine": f"{platform.node()} {_first_line('/etc/machine-id')}".strip(),
        "boot": _first_line("/proc/sys/kernel/random/boot_id"),
    }


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
