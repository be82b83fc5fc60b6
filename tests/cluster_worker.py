"""`newsletter worker` with short waits: what takes half a minute in life takes seconds here. Nothing else differs.

python cluster_worker.py [STALLED [SLICE [LEASE]]]      in a workspace; seconds
"""

from __future__ import annotations

import sys
from pathlib import Path

from newsletter.cli import main
from newsletter.config import load_config
from newsletter.settings import configure


def hurry(stalled: float = 2.0, slice: float = 10.0, lease: float = 4.0) -> None:
    configure(load_config(Path.cwd(), {}))
    from newsletter import dispatch

    dispatch.LEASE = lease  # before the engines take it for their default
    from newsletter.engine import cluster

    cluster.STALLED, cluster.PULSE, cluster.SLICE = stalled, stalled / 4, slice
    cluster.LONGEST_PAUSE, cluster.STEADY, cluster.DISORDER = 1.0, 2.0, 3.0
    from newsletter.engine import local
    from newsletter.store import mailings

    mailings.BATCH = 100
    local.CHECK_IN = 0.5


if __name__ == "__main__":
    hurry(*map(float, sys.argv[1:]))
    main(["worker"])
