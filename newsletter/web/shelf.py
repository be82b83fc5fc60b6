"""What lies ready to be handed out as bytes, without Django: style, logo, and the archive's pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from newsletter.web.site import Site

FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An answer as it leaves."""

    status: str
    headers: Mapping[str, str]
    body: bytes


class Shelf:
    """The answers of one server process that are ready, by path."""

    def __init__(self, site: Site) -> None:
        name, style = site.style
        files = {f"/static/{name}": (style, "text/css; charset=utf-8")}
        if site.logo:
            files[f"/images/{site.logo[0]}"] = (site.logo[1], site.logo[2])
        self._ready = {path: _ready(body, media_type, FOREVER) for path, (body, media_type) in files.items()}

    def find(self, environ: Mapping[str, Any]) -> Ready | None:
        return self._ready.get(environ["PATH_INFO"])


def _ready(body: bytes, media_type: str, cache: str) -> Ready:
    headers = {
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "Cache-Control": cache,
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }
    return Ready(status="200 OK", headers=headers, body=body)
