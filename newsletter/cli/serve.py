"""`newsletter serve`: the pages for members, and on SQLite a worker beside them.

One process watches over the others: server processes, which are forks of it and share one listening socket, and the
worker, a command of its own. When it ends, however that comes about, they end too.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

import newsletter
from newsletter.cli.beside import leave_with
from newsletter.cli.database import open_store
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config

LOCAL = "127.0.0.1"
BACKLOG = 1024  # connections that the system keeps until a process takes them
CONNECTIONS = 8192  # of one server process at one time
HEADER_TIME = 10_000  # milliseconds in which a request's head must have arrived, and that an idle connection is kept
LOOK_EVERY = 0.1  # seconds between two looks at what runs
STOP_TIME = 10  # seconds that a server process has for what it has begun
SOON = 5.0  # seconds: a process that lives no longer has died of something that may be there still
LONGEST_PAUSE = 60.0  # seconds before something that keeps dying is started again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command()
@click.option("--host", default=LOCAL, metavar="ADDRESS", help=f"The address to listen at. Default: {LOCAL}.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    metavar="PORT",
    help="The port to listen at, 0 for any that is free. Default: 8000.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=2,
    metavar="N",
    help="How many server processes. Default: 2.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=4,
    metavar="N",
    help="How many requests each of them works on at one time. Default: 4.",
)
@click.option(
    "--worker/--no-worker",
    default=None,
    help="Whether `newsletter worker` runs beside the pages. Default: yes on SQLite, no on PostgreSQL.",
)
@click.option("--inbox", is_flag=True, help="Show the outbox at /inbox/, on this machine only.")
@click.pass_context
def serve(
    ctx: click.Context, *, host: str, port: int, processes: int, threads: int, worker: bool | None, inbox: bool
) -> None:
    """Serve the pages for members: sign-up, leaving, preferences, the archive.

    On SQLite a worker runs beside it, which sends what is due; on PostgreSQL start `newsletter worker` where you like.
    It speaks plain HTTP: put a reverse proxy with a certificate in front of it (docs/deploy.md). SIGTERM and Ctrl-C
    let it finish what is in hand.

    \b
    Examples:
      newsletter serve
      newsletter serve --host 0.0.0.0 --port 8080 --processes 4
      newsletter serve --inbox                (the mail of the outbox at /inbox/, to try things out)
      newsletter serve --no-worker            (a worker runs elsewhere)
    """
    with _ended_by_signals():
        config = open_workspace(ctx)
        config = replace(config, root=config.root.absolute())
        if inbox and host != LOCAL:
            raise click.UsageError(f"--inbox shows mail to whoever asks, so it goes with --host {LOCAL} only")
        open_store(config)
        from newsletter.store import schema
        from newsletter.web.app import application

        with schema.explained():
            door = application(config, inbox=inbox)
        beside = schema.connection.vendor == "sqlite" if worker is None else worker
        from django.db import connections

        connections.close_all()  # a connection must not go over into a fork
        listening = _listen(host, port)
        host, port = listening.getsockname()[:2]
        shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        click.echo(f"The pages of this workspace: {shown}{door.prefix}/ (Ctrl-C ends it)")
        if inbox:
            click.echo(f"Its outbox: {shown}{door.prefix}/inbox/")
        sys.stdout.flush()
        with closing(listening):
            code = _run(config, door, listening, processes=processes, threads=threads, beside=beside)
    ctx.exit(code)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Whatever it is doing, SIGTERM and SIGINT end the program with exit code 0."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    former = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on: what comes before a server process is ready waits in it."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise click.ClickException(f"--host {host}: no such address on this machine") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not stopped by connections that are over
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(
                f"port {port} at {host} is taken by another program; stop that one, or name another: --port {port + 1}"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise click.ClickException(f"--host {host}: no such address on this machine") from None
        if error.errno == errno.EACCES:
            raise click.ClickException(
                f"port {port}: this user may not listen there; name one above 1023, and let a reverse proxy have the "
                "other"
            ) from None
        raise
    listening.setblocking(False)
    return listening


def _run(config: Config, door: Any, listening: socket.socket, *, processes: int, threads: int, beside: bool) -> int:
    """Serves until a signal comes: the exit code."""
    from granian import Granian
    from granian._granian import SocketHolder
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    multiprocessing.set_start_method("fork", force=True)  # the site is loaded once, and the socket shared
    forking = threading.Lock()
    _fork_alone(forking)
    _raise_limit_of_files()
    parent = os.getpid()

    class Server(Granian):  # type: ignore[misc]
        """granian's supervisor with a socket of ours, and with patience for a process that dies again and again."""

        def _init_shared_socket(self) -> None:
            # Not granian's own way on Linux, a socket for each process with SO_REUSEPORT: with it a second server on
            # the same port is no error, and connections that wait for a process that dies are lost.
            self._ssp, self._sso = None, listening
            self._shd = SocketHolder(listening.fileno(), False, BACKLOG)

        def _drop_shared_socket(self) -> None:
            """It stays open until the processes have ended: who comes now waits for the next server."""

        def signal_handler_interrupt(self, number: int, frame: object) -> None:
            # Nothing that takes a lock: the handler may have interrupted whoever holds it.
            self.interrupt_signal = True
            if dispatcher:
                dispatcher.stop(number)

        def _serve_loop(self, spawn_target: Callable[..., None], target_loader: Callable[..., object]) -> None:
            pause = 0.0
            while not self.interrupt_signal:
                time.sleep(LOOK_EVERY)
                if not self.interrupt_children:
                    continue
                died, self.interrupt_children = self.interrupt_children, []
                lived = min(time.monotonic() - self.wrks[each].birth for each in died)
                pause = min(LONGEST_PAUSE, max(1.0, pause * 2)) if lived < SOON else 0.0
                again = f"starting it again{f' in {pause:g} s' if pause else ''}"
                _tell(f"a server process ended unexpectedly; {again}")
                ends = time.monotonic() + pause
                while time.monotonic() < ends and not self.interrupt_signal:
                    time.sleep(LOOK_EVERY)
                if not self.interrupt_signal:
                    self._respawn_workers(died, spawn_target, target_loader)

    def application() -> object:
        """In a new server process: what it runs."""
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which tells everybody
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # granian sets its own once it serves
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if os.getppid() != parent:
            os._exit(1)
        leave_with(parent, patience=STOP_TIME)
        _log_to_stderr()
        from newsletter.web.front import Front

        return Front(door, threads=threads)

    dispatcher: _Dispatcher | None = None
    server = Server(
        "newsletter.web",
        interface=Interfaces.RSGI,
        workers=processes,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIME),
        log_enabled=False,
        workers_kill_timeout=STOP_TIME,
    )
    try:
        if beside:
            dispatcher = _Dispatcher(config.root, forking)
            dispatcher.start()
        server.serve(target_loader=application, wrap_loader=False)
    finally:
        if dispatcher:
            if not server.interrupt_signal:
                dispatcher.stop(signal.SIGTERM)
            dispatcher.join()
    return 0


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


def _raise_limit_of_files() -> None:
    """As many open files as this user may have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # macOS says "infinity" and means less
        pass


def _log_to_stderr() -> None:
    """What goes wrong on the pages, a line each. Other loggers stay silent: what Django and granian say of a failure
    holds addresses with tokens in them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Bare("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("newsletter.web")
    log.addHandler(handler)
    log.propagate = False
    logging.getLogger().addHandler(logging.NullHandler())


class _Bare(logging.Formatter):
    """A failure with the places it went through, without its words: a database's hold addresses."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name there
        kind, _, trace = ei
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return f"  {kind.__name__} at {' < '.join(reversed(places[-12:]))}"


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
                    passed_on += 1
                    process.send_signal(number)
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
        # -P: the current folder, which may hold anything, is no place to import from.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "newsletter.cli.beside", str(os.getpid()), "-w", str(self._root), "worker"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([home, *os.environ.get("PYTHONPATH", "").split(":")])},
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent, which tells everybody
        )
