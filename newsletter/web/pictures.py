"""The workspace's pictures by the names under which they are published."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from newsletter.config import Config
from newsletter.errors import IssueError, Where
from newsletter.rendering.edition import Image
from newsletter.rendering.images import load_image

FRESH = 2.0  # seconds between two looks into the folder


class Pictures:
    """Finds a picture of issues/images by its name, which is its content's. What was read stays known by its size and
    time, so that asking for what is not there costs a listing of the folder every two seconds at most."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.issues / "images"
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}  # file → its size and time, and its name
        self._look_at = 0.0
        self._lock = threading.Lock()

    def find(self, name: str) -> Image | None:
        """The picture of this name, as the file holds it now; None where none does."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look()
                self._look_at = time.monotonic() + FRESH
            paths = [path for path, (_, known) in self._known.items() if known == name]
        images = (self._load(path) for path in paths)
        return next((image for image in images if image and image.name == name), None)

    def _look(self) -> None:
        known = {}
        for path in sorted(self._folder.rglob("*")):
            try:
                status = path.stat()
            except OSError:
                continue
            seen = (status.st_size, status.st_mtime_ns)
            before = self._known.get(path)
            if before and before[0] == seen:
                known[path] = before
            elif image := self._load(path):
                known[path] = (seen, image.name)
            else:
                known[path] = (seen, "")
        self._known = known

    def _load(self, path: Path) -> Image | None:
        try:
            return load_image(path.relative_to(self._config.issues).as_posix(), self._config, Where(path=""))
        except IssueError:
            return None
