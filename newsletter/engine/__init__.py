"""Who runs the duties, and where. Nothing else in the code knows which engine it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from newsletter.config import Config
from newsletter.dispatch import LEASE, Progress
from newsletter.engine import local
from newsletter.providers import WayOut


def run(
    config: Config,
    ways: Sequence[WayOut],
    *,
    stop: threading.Event,
    mailing: int | None = None,
    lease: float = LEASE,
    until: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Works with the engine of newsletter.yaml until `stop` is set or `until()` says so; see `local.run`.

    Who follows one `mailing` to its end runs the local loop in any case: it must go on when no other worker is there.
    """
    if config.engine == "cluster" and mailing is None:
        from newsletter.engine import cluster  # here: it needs PostgreSQL

        return cluster.run(config, ways, stop=stop, lease=lease, until=until, report=report)
    return local.run(config, ways, stop=stop, mailing=mailing, lease=lease, until=until, report=report)
