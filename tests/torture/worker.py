"""A worker process for the rig: the engine that `newsletter worker` runs, with a short lease and short waits.

python -m torture.worker SETTINGS_AS_JSON
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from newsletter.config import Config, Sendgrid, load_config
from newsletter.providers import WayOut, open_ways
from newsletter.settings import configure


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the rig tells a worker beside its workspace."""

    root: str  # the workspace's folder
    lease: float  # seconds
    backoff: float  # seconds before a deferred recipient is tried again
    batch: int  # deliveries in one, where this worker writes them down
    database_url: str = ""  # in place of the workspace's: the way through a proxy
    sendgrid: str = ""  # the URL of a server that stands for SendGrid, which no configuration can name

    def text(self) -> str:
        return json.dumps(asdict(self))


def _ways(config: Config, sendgrid: str) -> tuple[WayOut, ...]:
    if not sendgrid:
        return open_ways(config)
    from newsletter.providers.sendgrid import SendgridProvider

    ways = []
    for way in config.ways:
        assert isinstance(way.settings, Sendgrid)
        ways.append(WayOut(name=way.name, provider=SendgridProvider(way.settings, host=sendgrid), pace=way.pace))
    return tuple(ways)


def main() -> None:
    faulthandler.register(signal.SIGUSR1)  # where every thread is: for one that does not end
    given = Settings(**json.loads(sys.argv[1]))
    config = load_config(Path(given.root), {"DATABASE_URL": given.database_url} if given.database_url else {})
    configure(config)
    from newsletter import engine, route
    from newsletter.dispatch import Progress
    from newsletter.engine import cluster
    from newsletter.engine.local import stopped_by_signals
    from newsletter.store import ledger, mailings

    # What takes minutes in life takes seconds here; nothing else differs from `newsletter worker`.
    ledger.FIRST_BACKOFF = given.backoff
    mailings.BATCH = given.batch
    route.LONGEST_REST = given.backoff
    cluster.STALLED, cluster.PULSE, cluster.LONGEST_PAUSE = given.lease / 2, given.lease / 8, 1.0
    cluster.STEADY, cluster.DISORDER = 2.0, 3.0
    cluster.SLICE = 0.0  # one key range in a job: so that writing down is several
    said = ready = ""

    def report(progress: Progress) -> None:
        nonlocal said, ready
        if not ready:  # what it needs to begin was there: from now on it waits for whatever is away
            ready = "ready"
            print(ready, flush=True)
        words = f"{progress.down or progress.detour} | {progress.trouble}"
        if words != said:
            said = words
            with suppress(OSError):  # its disk may be full, too
                print(words, file=sys.stderr, flush=True)

    with stopped_by_signals() as stop:
        engine.run(config, _ways(config, given.sendgrid), stop=stop, lease=given.lease, report=report)


if __name__ == "__main__":
    main()
