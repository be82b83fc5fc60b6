"""What the smtp provider costs on its own: no ledger, but the sealing and the flight recorder.

    PYTHONPATH=. python benchmarks/smtp_provider.py [MESSAGES] [CONNECTIONS]      100,000 and 4 by default

Sends messages of 48 KB to Postfix's `smtp-sink` on the loopback interface (Debian: the package postfix) from four
threads, in chunks of 250, as the dispatcher does. Prints µs of CPU per message of this process, of which so much in the
kernel, the messages per second, and the peak of resident memory after the first thousand messages and after the last:
the two must be alike.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from newsletter.config import Smtp
from newsletter.envelope import Envelope, Recipient
from newsletter.links import SAMPLE, archive_url
from newsletter.providers.smtp import SmtpProvider
from newsletter.recorder import Lease, Recorder
from newsletter.rendering.edition import Edition, Mailbox

STORY = (
    '<tr><td style="padding:0 24px"><p>El Congreso debatió ayer la moción; más en la edición de hoy.</p></td></tr>\n'
)
FOOTER = (
    '<p>Hola @@NAME@@ <a href="@@VIEW_URL@@">ver</a> <a href="@@PREFERENCES_URL@@">cambiar</a> '
    '<a href="@@UNSUBSCRIBE_URL@@">salir</a></p>\n'
)
TEXT = "Hola @@NAME@@\n\n@@VIEW_URL@@\n@@PREFERENCES_URL@@\n@@UNSUBSCRIBE_URL@@\n"
SIZE = 48_000
BASE = "https://news.example.org"


def edition() -> Edition:
    """One whose messages have 48 KB, four slots in each part."""
    small = Edition(
        key="2017-11-19",
        language="es",
        direction="ltr",
        kind="bulk",
        subject="Perú esta semana: el Congreso, la moción y lo que viene",
        sender=Mailbox(name="Peru Weekly", address="news@news.example.org"),
        list_id=("Peru Weekly", "weekly.news.example.org"),
        feedback_id="2017-11-19:weekly:news:example",
        unsubscribe_mailbox="leave@news.example.org",
        html=FOOTER,
        text="El Congreso debatió ayer la moción.\n" * 200 + TEXT,
    )
    story = len(sealed(replace(small, html=STORY + FOOTER))) - len(sealed(small))
    return replace(small, html=STORY * ((SIZE - len(sealed(small))) // story) + FOOTER)


def sealed(edition: Edition) -> bytes:
    return Envelope(edition).seal(recipients(0, 1)[0], date=datetime.now(UTC))


def recipients(first: int, count: int) -> list[Recipient]:
    """As the dispatcher makes them: keys and links of a whole chunk at once."""
    ids = range(first, first + count)
    keys = SAMPLE.delivery_keys(ids)
    leave, change = SAMPLE.tokens("unsubscribe", ids), SAMPLE.tokens("preferences", ids)
    view = archive_url(BASE, language="es", issue="2017-11-19")
    return [
        Recipient(
            key=key,
            address=f"reader{id}@example.org",
            name=f"Reader {id}",
            slots={
                "NAME": f"Reader {id}",
                "UNSUBSCRIBE_URL": f"{BASE}/u/{leaving}",
                "PREFERENCES_URL": f"{BASE}/p/{changing}",
                "VIEW_URL": view,
            },
        )
        for id, key, leaving, changing in zip(ids, keys, leave, change, strict=True)
    ]


@contextmanager
def sink() -> Iterator[int]:
    """The port of an smtp-sink of our own."""
    program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not program:
        sys.exit("there is no smtp-sink here; it comes with Postfix (Debian: apt install postfix)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *user, f"127.0.0.1:{port}", "100"])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def cpu() -> tuple[float, float]:
    """Seconds of CPU of this process, and those of them in the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_stime


def peak() -> float:
    """MiB of resident memory at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def send(provider: SmtpProvider, mailing: Edition, first: int, count: int, folder: Path) -> float:
    """Sends from four threads; seconds of CPU that making the recipients took, which are the dispatcher's, not ours."""
    chunks = iter([(at, min(250, first + count - at)) for at in range(first, first + count, 250)])
    lock = threading.Lock()
    made = [0.0]
    accepted = [0]

    def lane(number: int) -> None:
        lease = Lease(batch=number, epoch=first + 1, until=time.time() + 3600)
        recorder = Recorder(folder, lease, store="benchmark", owner="benchmark")
        while True:
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                break
            start = time.thread_time()
            crowd = recipients(*chunk)
            spent = time.thread_time() - start
            outcomes = provider.send(mailing, crowd, recorder)
            with lock:
                made[0] += spent
                accepted[0] += sum(outcome.state == "accepted" for outcome in outcomes)
        recorder.remove()

    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(provider.limits.lanes)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    assert accepted[0] == count, f"{accepted[0]} of {count} accepted"
    return made[0]


def main(count: int, connections: int) -> None:
    mailing = edition()
    with sink() as port, tempfile.TemporaryDirectory() as folder:
        config = Smtp(
            host="127.0.0.1",
            port=port,
            security="none",
            username="",
            connections=connections,
            timeout=60,
            bounces="bounce.example.org",
        )
        provider = SmtpProvider(config)
        send(provider, mailing, 0, 1000, Path(folder))
        gc.collect()
        before, (total, kernel), start = peak(), cpu(), time.perf_counter()
        made = send(provider, mailing, 1000, count, Path(folder))
        seconds, after = time.perf_counter() - start, cpu()
        provider.close()
    each = 1e6 / count
    print(f"message      {len(sealed(mailing)):,} bytes; {count:,} messages over {connections} connections")
    own, system = (after[0] - total - made) * each, (after[1] - kernel) * each
    print(f"CPU          {own:.1f} µs per message, {system:.1f} of them in the kernel")
    print(f"             {made * each:.1f} µs more for making the recipients, which is the dispatcher's")
    print(f"pace         {count / seconds:,.0f} messages per second")
    print(f"peak memory  {before:.1f} MiB after 1,000 messages, {peak():.1f} MiB after all")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [100_000, 4][len(numbers) :]))
