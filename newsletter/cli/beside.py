"""A command of ours as a child of another one: `python -m newsletter.cli.beside PARENT COMMAND…`.

It ends as by SIGTERM when its parent is gone, however that came about.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

LOOK_EVERY = 0.5  # seconds


def leave_with(parent: int, *, patience: float | None = None) -> None:
    """From now on this process gets SIGTERM when it is no longer a child of `parent`; it is over at the latest after
    further `patience` seconds.

    A thread that looks, since not every system can signal the end of a parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)
        if patience is not None:
            time.sleep(patience)
            os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    from newsletter.cli import main as command

    leave_with(int(sys.argv[1]))
    command(sys.argv[2:])


if __name__ == "__main__":
    main()
