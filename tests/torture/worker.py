"""A worker process for the rig: the engine that `newsletter worker` runs, with a short lease and short waits.

python -m torture.worker WORKSPACE LEASE BACKOFF
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from newsletter.config import load_config
from newsletter.providers import open_ways
from newsletter.settings import configure


def main() -> None:
    root, lease, backoff = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    config = load_config(root, {})
    configure(config)
    from newsletter import engine, route
    from newsletter.dispatch import Progress
    from newsletter.engine import cluster
    from newsletter.engine.local import stopped_by_signals
    from newsletter.store import ledger

    # What takes minutes in life takes seconds here; nothing else differs from `newsletter worker`.
    ledger.FIRST_BACKOFF = backoff
    route.LONGEST_REST = backoff
    cluster.STALLED, cluster.PULSE, cluster.LONGEST_PAUSE = lease / 2, lease / 8, 1.0
    said = ""

    def report(progress: Progress) -> None:
        nonlocal said
        words = f"{progress.down} | {progress.trouble}"
        if words != said:
            said = words
            with suppress(OSError):  # its disk may be full, too
                print(words, file=sys.stderr, flush=True)

    with stopped_by_signals() as stop:
        print("ready", flush=True)
        engine.run(config, open_ways(config), stop=stop, lease=lease, report=report)


if __name__ == "__main__":
    main()
