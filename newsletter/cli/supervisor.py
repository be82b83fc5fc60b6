"""The processes of `newsletter serve`: one watches over the others, and when it ends, by whatever cause, they end.

Server processes are forks of it, so that the workspace is loaded once and the listening socket is theirs together. The
worker is a command of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.mp import MPServer

import newsletter
from newsletter.cli.beside import leave_with
from newsletter.cli.serve import BACKLOG, SIGNALS
from newsletter.web import logs
from newsletter.web.door import Door
from newsletter.web.front import Front

CONNECTIONS = 8192  # of one server process at one time, where it may have so many files open
OTHER_FILES = 128  # that a server process has open: the database, what it imports from
HEADER_TIME = 10_000  # milliseconds in which a request's head must have arrived, and that an idle connection is kept
LARGEST_HEAD = 64 * 1024  # octets
LOOK_EVERY = 0.1  # seconds between two looks at what runs
STOP_TIME = 10  # seconds that a server process has for what it has begun
SOON = 5.0  # seconds: a process that lives no longer has died of something that may be there still
LONGEST_PAUSE = 60.0  # seconds before something that keeps dying is started again


def supervise(door: Door, listening: socket.socket, *, processes: int, threads: int, worker_of: Path | None) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP, and returns when all processes have ended.

    With the folder of a workspace as `worker_of` its worker runs beside them. Opens no connection to the database, and
    none may be open: it would go over into the forks. Signal handlers are left as they are set here.
    """
    multiprocessing.set_start_method("fork", force=True)
    forking = threading.Lock()
    _fork_alone(forking)
    connections = _raise_limit_of_files()
    dispatcher = _Dispatcher(worker_of, forking) if worker_of else None
    parent = os.getpid()

    def application() -> Front:
        """In a new server process: what it runs."""
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which tells everybody
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # granian sets its own once it serves
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        leave_with(parent, patience=STOP_TIME)
        logs.to_stderr()
        return Front(door, threads=threads)

    server = _Server(listening, dispatcher, processes=processes, connections=connections)
    try:
        if dispatcher:
            dispatcher.start()
        server.serve(target_loader=application, wrap_loader=False)  # type: ignore[arg-type] # an object with __rsgi__
    finally:
        if dispatcher:
            if not server.interrupt_signal:
                dispatcher.stop(signal.SIGTERM)
            dispatcher.join()


class _Server(MPServer):
    """granian's supervisor with a socket of ours, and with patience for a process that dies again and again."""

    interrupt_children: list[int]
    _shd: Any

    def __init__(
        self, listening: socket.socket, dispatcher: _Dispatcher | None, *, processes: int, connections: int
    ) -> None:
        super().__init__(
            "newsletter.web",
            interface=Interfaces.RSGI,
            workers=processes,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            backpressure=connections,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIME, max_buffer_size=LARGEST_HEAD),
            log_enabled=False,
            workers_kill_timeout=STOP_TIME,
        )
        self._sockets, self._dispatcher = _one_each(listening, processes), dispatcher
        # What closes a socket when it is let go of is kept as long as the socket.
        self._holders = [SocketHolder(each.fileno(), False, BACKLOG) for each in self._sockets]  # type: ignore[call-arg]
        self._hangup_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup

    def _init_shared_socket(self) -> None:
        # Not granian's own way on Linux, where each process opens a socket with SO_REUSEPORT itself: with it a second
        # server on the same port is no error, and connections that wait for a process that dies are lost.
        self._ssp = None

    def _spawn_worker(self, idx: int, *args: Any, **named: Any) -> Any:
        self._sso, self._shd = self._sockets[idx], self._holders[idx]
        return super()._spawn_worker(idx, *args, **named)

    def _drop_shared_socket(self) -> None:
        """Whoever opened it closes it."""

    def signal_handler_interrupt(self, *args: Any) -> None:
        # Nothing that takes a lock: this may have interrupted whoever holds it.
        self.interrupt_signal = True
        if self._dispatcher:
            self._dispatcher.stop(args[0])

    def signal_handler_reload(self, *args: Any) -> None:
        if not self._hangup_ignored:  # the terminal has been closed
            self.signal_handler_interrupt(signal.SIGTERM)

    def _serve_loop(self, spawn_target: Callable[..., None], target_loader: Callable[..., object]) -> None:
        pause = 0.0
        while not self.interrupt_signal:
            time.sleep(LOOK_EVERY)
            if not self.interrupt_children:
                continue
            died, self.interrupt_children = self.interrupt_children, []
            lived = min(time.monotonic() - self.wrks[each].birth for each in died)
            pause = min(LONGEST_PAUSE, max(1.0, pause * 2)) if lived < SOON else 0.0
            _tell(f"a server process has died; starting another one{f' in {pause:g} s' if pause else ''}")
            ends = time.monotonic() + pause
            while time.monotonic() < ends and not self.interrupt_signal:
                time.sleep(LOOK_EVERY)
            if not self.interrupt_signal:
                self._respawn_workers(died, spawn_target, target_loader)


def _one_each(listening: socket.socket, processes: int) -> list[socket.socket]:
    """A socket for each server process, at the same port: the system deals out connections evenly. From one socket that
    all of them ask, whoever is awake takes most: one of two processes had three quarters of the work, as measured."""
    if sys.platform != "linux":
        return [listening] * processes
    every = [listening]
    for _ in range(processes - 1):
        another = socket.socket(listening.family, socket.SOCK_STREAM)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        another.bind(listening.getsockname())
        another.listen(BACKLOG)
        another.setblocking(False)
        every.append(another)
    return every


def _fork_alone(lock: threading.Lock) -> None:
    """Around each fork `lock` is held, and SIGTERM and SIGINT are held back.

    A process that is started by exec at the same moment would leave its pipes open in the fork. And a signal that comes
    before a new server process has handlers of its own would be taken by those of the parent, and have no effect.
    """

    def before() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        lock.acquire()

    def in_parent() -> None:
        lock.release()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=lock.release)


def _raise_limit_of_files() -> int:
    """As many open files as this user may have, since each connection is one; returns for how many there is room."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says "infinity" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if files == resource.RLIM_INFINITY else max(16, min(CONNECTIONS, files - OTHER_FILES))


def _tell(line: str) -> None:
    click.echo(line, err=True)


class _Dispatcher:
    """`newsletter worker` of the same workspace, in a process of its own, started again whenever it ends."""

    def __init__(self, root: Path, forking: threading.Lock) -> None:
        self._root, self._forking = root, forking
        self._signals: list[int] = []  # that came for it
        self._thread = threading.Thread(target=self._watch, name="dispatcher")

    def start(self) -> None:
        self._thread.start()

    def stop(self, number: int) -> None:
        """Lets it finish what is in hand, and returns at once. A second SIGINT interrupts it."""
        self._signals.append(number)

    def join(self) -> None:
        self._thread.join()

    def _watch(self) -> None:
        pause = 0.0
        while not self._signals:
            begun = time.monotonic()
            with self._forking:
                process = self._begin()
            passed_on = 0
            while (code := process.poll()) is None:
                for number in self._signals[passed_on:]:
                    # The first as SIGTERM in any case: SIGINT would be a traceback while Python still starts.
                    process.send_signal(number if passed_on else signal.SIGTERM)
                    passed_on += 1
                time.sleep(LOOK_EVERY)
            if self._signals:
                return
            pause = min(LONGEST_PAUSE, max(1.0, pause * 2)) if time.monotonic() - begun < LONGEST_PAUSE else 1.0
            _tell(f"the worker ended (exit code {code}); starting it again in {pause:g} s")
            ends = time.monotonic() + pause
            while time.monotonic() < ends and not self._signals:
                time.sleep(LOOK_EVERY)

    def _begin(self) -> subprocess.Popen[bytes]:
        home = str(Path(newsletter.__file__).parents[1])
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        # -P: the current folder, which may hold anything, is no place to import from.
        line = [sys.executable, "-P", "-m", "newsletter.cli.beside", str(os.getpid()), "-w", str(self._root), "worker"]
        return subprocess.Popen(  # noqa: S603 - ourselves
            line,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent, which tells everybody
        )
