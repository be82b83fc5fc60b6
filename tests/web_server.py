"""The pages of a workspace by the real `newsletter serve`, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from newsletter.config import Config

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds, on a busy machine


class Served:
    """A server that runs. `url` is its address without a slash at the end; `said()` what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, url: str) -> None:
        self.process, self._output, self.url = process, output, url

    def said(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)


@contextmanager
def served(
    workspace: Path | Config,
    *,
    inbox: bool = False,
    processes: int = 1,
    worker: bool | None = None,
    port: int = 0,
    arguments: tuple[str, ...] = (),
    stopped: bool = False,
) -> Iterator[Served]:
    """`newsletter serve` on a port of 127.0.0.1 that was free, once it answers; ended in the end, with exit code 0.

    `worker=None`: a worker runs beside it on SQLite. With `stopped` the test ends it by itself.
    """
    root = workspace.root if isinstance(workspace, Config) else workspace
    command = [sys.executable, "-m", "newsletter", "-w", str(root), "serve", "--port", str(port)]
    command += ["--processes", str(processes), *arguments]
    command += ["--inbox"] if inbox else []
    command += [] if worker is None else ["--worker" if worker else "--no-worker"]
    with tempfile.NamedTemporaryFile(prefix="serve-", suffix=".txt") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Served(process, Path(output.name), "")
            server.url = _announced(server)
            _answers(server)
            yield server
            if not stopped:
                code = server.stop()
                assert code == 0, f"exit code {code}: {server.said()}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _announced(server: Served) -> str:
    """The address that the server prints, without the path."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        if found := re.search(r"(http://\S+?:\d+)/", server.said()):
            return found[1]
        assert server.process.poll() is None, f"exit code {server.process.returncode}: {server.said()}"
        time.sleep(0.02)
    raise AssertionError(f"no address within {PATIENCE:g} seconds: {server.said()}")


def _answers(server: Served) -> None:
    try:
        with urllib.request.urlopen(f"{server.url}/robots.txt", timeout=PATIENCE) as answer:
            answer.read()
    except urllib.error.HTTPError:  # 404 where base_url has a path
        pass
