"""What a DKIM signature adds to a message, beside the bare signature of the same key on the same machine.

    PYTHONPATH=. python benchmarks/signing.py [MESSAGES]        3,000 by default

The message is that of benchmarks/seal.py, 60 KB. Rounds of the bare signature and of ours take turns, and the quickest
round of each counts, so that a busy machine disturbs both alike. "Beside" is what we add to the arithmetic of the key:
SHA-256 over the message, which is shown on its own, the heads, and writing the header. Then the same work on several
threads at once.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import perf_counter

from seal import recipient, sample_edition

from newsletter.dkim import Key, Kind, Signer, new_key
from newsletter.envelope import Envelope, Sealed

CHUNK = 250
ROUNDS = 12


def best(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """µs of the quickest round of each, which take turns."""
    quickest = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            start = perf_counter()
            work()
            quickest[place] = min(quickest[place], perf_counter() - start)
    return [seconds * 1e6 for seconds in quickest]


def at_once(work: Callable[[], object], threads: int, rounds: int) -> float:
    """µs of wall time per round when that many threads do the rounds between them."""
    start = perf_counter()
    lanes = [
        threading.Thread(target=lambda: [work() for _ in range(max(1, rounds // threads))]) for _ in range(threads)
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return (perf_counter() - start) / (max(1, rounds // threads) * threads) * 1e6


def main(messages: int) -> None:
    envelope = Envelope(sample_edition())
    now = datetime.now(UTC)
    crowd = [recipient(number) for number in range(CHUNK)]
    sealed = [each for each in envelope.seal_all(crowd, date=now) if isinstance(each, Sealed)]
    digest = hashlib.sha256(b"a digest").digest()
    whole = b"".join(sealed[0].pieces)
    rounds = max(ROUNDS, messages // CHUNK)

    def bare(keys: Sequence[Key]) -> Callable[[], object]:
        return lambda: [key.sign(digest) for _ in range(CHUNK) for key in keys]

    def ours(keys: Sequence[Key]) -> Callable[[], object]:
        signer = Signer(envelope, keys, domain="news.example.org")
        return lambda: signer.sign_all(sealed, date=now)

    def hashing() -> object:
        return [hashlib.sha256(whole).digest() for _ in range(CHUNK)]

    rsa, ed25519 = (new_key(kind, kind) for kind in _kinds())
    print(f"message          {len(whole):,} bytes; SHA-256 over it {best([hashing], rounds)[0] / CHUNK:.1f} µs")
    for name, keys in (("RSA-2048", [rsa]), ("Ed25519", [ed25519]), ("both", [rsa, ed25519])):
        alone, all = (each / CHUNK for each in best([bare(keys), ours(keys)], rounds))
        print(f"{name:16} {all:.1f} µs a message, the bare signature {alone:.1f} µs: {all - alone:.1f} µs beside")
    for name, keys in (("RSA-2048", [rsa]), ("Ed25519", [ed25519])):
        walls = [at_once(ours(keys), threads, rounds) / CHUNK for threads in (1, 2, 4)]
        print(
            f"{name:16} {walls[0]:.0f} µs a message on one thread, {walls[1]:.0f} on two, {walls[2]:.0f} on four "
            f"({os.cpu_count()} cores)"
        )


def _kinds() -> tuple[Kind, Kind]:
    return "rsa", "ed25519"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
