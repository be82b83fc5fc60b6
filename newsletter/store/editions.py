"""Editions as they are frozen in the database, and read back."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from dataclasses import asdict
from typing import Any

from newsletter.rendering.edition import Edition, Image, Imprint, Mailbox


def frozen(edition: Edition) -> tuple[str, str]:
    """The edition as JSON, and the SHA-256 of that text in hexadecimal."""
    values = asdict(edition)
    for image in values["images"]:
        # A linked image is kept apart (`published.keep_images`); only what travels in the message is kept with it.
        image["content"] = b64encode(image["content"]).decode() if edition.embed else ""
    content = json.dumps(values, ensure_ascii=False, sort_keys=True)
    return content, hashlib.sha256(content.encode()).hexdigest()


def thawed(content: str) -> Edition:
    """The edition that was frozen, by this version or an earlier one. Images that messages only link to come back
    without their content."""
    values: dict[str, Any] = json.loads(content)
    values["sender"] = Mailbox(**values["sender"])
    values["reply_to"] = Mailbox(**values["reply_to"]) if values["reply_to"] else None
    values["list_id"] = tuple(values["list_id"]) if values["list_id"] else None
    values["images"] = tuple(Image(**{**image, "content": b64decode(image["content"])}) for image in values["images"])
    values["imprint"] = Imprint(**values.get("imprint", {}))
    return Edition(**values)
