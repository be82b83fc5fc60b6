"""Libraries that could fetch things, imported without what they would fetch with.

premailer and imagesize take URLs as well as text and files, and for that import requests and urllib.request, and with
them TLS, cookies and character tables. Nothing here is ever given a URL to fetch, so they are imported with an empty
module in the place of those two: less to load for each command, and no way out by accident.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_WAYS_OUT = ("requests", "urllib.request")


class _Nothing(ModuleType):
    """Any name can be imported from it, and none can be called."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def offline() -> Iterator[None]:
    """What is imported inside gets none of the ways out, unless one has been imported already; later imports do."""
    absent = [name for name in _WAYS_OUT if name not in sys.modules]
    sys.modules |= {name: _Nothing(name) for name in absent}
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
