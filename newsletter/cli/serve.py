"""`newsletter serve`: the pages for members, and on SQLite a worker beside them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import FrameType

import click

from newsletter.cli.database import open_store
from newsletter.cli.workspace import open_workspace

LOCAL = "127.0.0.1"
PORT = 8000
BACKLOG = 1024  # connections that the system keeps until a process takes them
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command()
@click.option("--host", default=LOCAL, metavar="ADDRESS", help=f"The address to listen at. Default: {LOCAL}.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    metavar="PORT",
    help=f"The port to listen at, 0 for any that is free. Default: {PORT}.",
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
    metavar="N",
    help="How many requests each of them works on at one time. Default: 24 on SQLite, where most of them wait for the "
    "disk together; 10 on PostgreSQL, where each holds a connection.",
)
@click.option(
    "--worker/--no-worker",
    default=None,
    help="Whether `newsletter worker` runs beside the pages. Default: yes on SQLite, no on PostgreSQL.",
)
@click.option("--inbox", is_flag=True, help="Show the outbox at /inbox/, on this machine only.")
@click.pass_context
def serve(
    ctx: click.Context, *, host: str, port: int, processes: int, threads: int | None, worker: bool | None, inbox: bool
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
    with _ended_by_signals() as serving:
        config = open_workspace(ctx)
        config = replace(config, root=config.root.absolute())
        if inbox and host != LOCAL:
            raise click.UsageError(f"--inbox shows mail to whoever asks, so it goes with --host {LOCAL} only")
        open_store(config)
        from newsletter.cli.supervisor import supervise
        from newsletter.store import schema
        from newsletter.web.app import application

        with schema.explained():
            door = application(config, inbox=inbox)
        beside = not config.database_url if worker is None else worker
        threads = threads or (10 if config.database_url else 24)
        from django.db import connections

        connections.close_all()
        with closing(_listen(host, port)) as listening:
            host, port = listening.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}{door.prefix}"
            click.echo(f"The pages of this workspace: {url}/ (Ctrl-C ends it)")
            if inbox:
                click.echo(f"Its outbox: {url}/inbox/")
            sys.stdout.flush()
            worker_of = config.root if beside else None
            serving.set()
            supervise(door, listening, processes=processes, threads=threads, worker_of=worker_of)


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """Whatever it is doing, SIGTERM and SIGINT end the program with exit code 0; once the event is set, by the way that
    ends its processes."""
    serving = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if not serving.is_set():
            # Nothing runs beside it yet, and a module in the middle of its import takes an exception for its own.
            os._exit(0)
        raise SystemExit(0)

    former = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield serving
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
        if sys.platform == "linux":  # only now: to bind it, the port must be free
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
