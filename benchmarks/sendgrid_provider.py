"""What the sendgrid provider costs on its own: no ledger, but the JSON, the HTTP and the flight recorder.

    PYTHONPATH=.:tests python benchmarks/sendgrid_provider.py [RECIPIENTS] [--connections 8] [--delay 150] [--profile]

Sends a message of 48 KB to RECIPIENTS (200,000 by default) in requests of a thousand, from as many threads as there are
connections, to tests/sendgrid_server.py in another process, which answers after --delay milliseconds. Prints the
milliseconds of CPU per request of this process, of which so much in the kernel; the share of the pace that the delay
allows; the size of a request; and the peak of resident memory after the first requests and after the last: the two must
be alike. What making the recipients costs is the dispatcher's and is left out.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from smtp_provider import cpu, edition, peak, recipients

from newsletter.config import Sendgrid
from newsletter.providers.sendgrid import SendgridProvider
from newsletter.providers.sendgrid_request import Letter
from newsletter.recorder import Lease, Recorder

CHUNK = 1000


@contextmanager
def server(delay: int, log: Path) -> Iterator[int]:
    """The port of a server of our own."""
    program = [
        sys.executable,
        "-m",
        "sendgrid_server",
        "--no-validate",
        "--delay",
        str(delay / 1000),
        "--log",
        str(log),
    ]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def send(provider: SendgridProvider, first: int, count: int, folder: Path) -> float:
    """Sends from as many threads as there are lanes; seconds of CPU that making the recipients took."""
    chunks = iter([(at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK)])
    lock = threading.Lock()
    made = [0.0]
    accepted = [0]
    letter = edition()

    def lane(number: int) -> None:
        lease = Lease(batch=number, epoch=first + 1, until=time.time() + 3600)
        recorder = Recorder(folder, lease, store="benchmark", owner="benchmark")
        while True:
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                break
            begun = time.thread_time()
            readers = recipients(*chunk)
            spent = time.thread_time() - begun
            outcomes = provider.send(letter, readers, recorder)
            with lock:
                made[0] += spent
                accepted[0] += sum(outcome.state == "accepted" for outcome in outcomes)
        recorder.remove()

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(provider.limits.lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted[0] == count, f"{accepted[0]} of {count} were accepted"
    return made[0]


def profile(provider: SendgridProvider, folder: Path) -> None:
    """Where a request spends its time, from one thread."""
    recorder = Recorder(folder, Lease(batch=99, epoch=1, until=time.time() + 3600), store="b", owner="b")
    chunks = [recipients(at, CHUNK) for at in range(0, 30 * CHUNK, CHUNK)]
    letter = edition()
    provider.send(letter, chunks[0], recorder)
    with cProfile.Profile() as profiler:
        for chunk in chunks:
            provider.send(letter, chunk, recorder)
    recorder.remove()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipients", type=int, nargs="?", default=200_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--delay", type=int, default=150)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(options.delay, Path(name, "log")) as port:
        config = Sendgrid(key="SG.test-key", connections=options.connections)
        provider = SendgridProvider(config, host=f"http://127.0.0.1:{port}")
        if options.profile:
            profile(provider, Path(name))
            return
        batch = Letter(edition()).batch(recipients(0, CHUNK))
        warm = 3 * provider.limits.lanes * CHUNK
        send(provider, 0, warm, Path(name))
        gc.collect()
        early = peak()
        before, kernel_before = cpu()
        begun = time.perf_counter()
        made = send(provider, 1_000_000, options.recipients, Path(name))
        took = time.perf_counter() - begun
        after, kernel_after = cpu()
        provider.close()
        late = peak()
        taken = len(set(Path(name, "log").read_text().splitlines()))
        assert taken == options.recipients + warm, f"the server took {taken}"
    requests = options.recipients / CHUNK
    print(f"size of a request      {len(batch.text(range(CHUNK))) / 1000:.0f} KB")
    print(f"CPU per request        {(after - before - made) / requests * 1000:.1f} ms")
    print(f"  of it in the kernel  {(kernel_after - kernel_before) / requests * 1000:.1f} ms")
    print(f"making the recipients  {made / requests * 1000:.1f} ms (the dispatcher's)")
    print(f"recipients a second    {options.recipients / took:,.0f}")
    if options.delay:
        allowed = options.connections * CHUNK / (options.delay / 1000)
        print(f"  of what latency allows  {options.recipients / took / allowed:.1%} of {allowed:,.0f}")
    print(f"peak memory            {early:.0f} MiB after the first requests, {late:.0f} MiB at the end")


if __name__ == "__main__":
    main()
