"""Finished files of an issue: html, txt and a sealed sample per language, the images, and a manifest that identifies
them.

Byte-reproducible: nothing here reads a clock, a locale or a random number. The manifest's SHA-256 is the name of what
was approved and sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from newsletter.config import Config
from newsletter.content.issue import Issue
from newsletter.envelope import Envelope, Recipient
from newsletter.links import SAMPLE, urls
from newsletter.rendering.edition import Edition

SAMPLE_ADDRESS = "reader@example.org"  # RFC 2606: nobody's


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a build made. `files` maps each path, relative to the folder and with /, to its bytes."""

    files: Mapping[str, bytes]
    manifest_hash: str  # SHA-256 of manifest.json, in hexadecimal


def sample_recipient(
    edition: Edition, config: Config, *, delivery: int = 0, address: str = SAMPLE_ADDRESS, name: str = ""
) -> Recipient:
    """A recipient whose links carry tokens of the public key `sample`, which the web refuses."""
    slots = urls(config.base_url, SAMPLE, delivery=delivery, language=edition.language, issue=edition.key)
    slots["CONFIRM_URL"] = f"{config.base_url}/c/{SAMPLE.token('confirm', delivery)}"
    slots |= {"NAME": name, "ADDRESS": address}
    return Recipient(key=f"sample-{delivery}", address=address, name=name, slots=slots)


def noon(day: date) -> datetime:
    """The moment at which a sample is dated: noon UTC of the issue's day."""
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def seal_sample(envelope: Envelope, edition: Edition, config: Config, day: date) -> bytes:
    """The message as the sample reader would get it."""
    return envelope.seal(sample_recipient(edition, config), date=noon(day))


def build_issue(issue: Issue, editions: Mapping[str, Edition], config: Config) -> Build:
    """Every file of a build. Raises what `Envelope` raises for an edition that cannot be sent."""
    files: dict[str, bytes] = {}
    described: dict[str, object] = {}
    images: dict[str, str] = {}
    for language, edition in sorted(editions.items()):
        envelope = Envelope(edition)
        parts = {
            f"{language}.html": edition.html.encode(),
            f"{language}.txt": edition.text.encode(),
            f"{language}.eml": seal_sample(envelope, edition, config, issue.date),
        }
        files |= parts
        for image in edition.images:
            files[f"images/{image.name}"] = image.content
            images[image.name] = _sha256(image.content)
        described[language] = {
            "html": _sha256(parts[f"{language}.html"]),
            "text": _sha256(parts[f"{language}.txt"]),
            "headers": _headers(edition),
            "images": [image.name for image in edition.images],
            "embed": edition.embed,
        }
    manifest = {
        "issue": issue.name,
        "base_url": config.base_url,
        "editions": described,
        "images": dict(sorted(images.items())),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    files["manifest.json"] = text.encode()
    return Build(files=files, manifest_hash=_sha256(files["manifest.json"]))


def write_build(build: Build, folder: Path) -> None:
    """Writes the files, each whole or not at all; files of an earlier build that this one lacks are removed."""
    for name, content in build.files.items():
        write_file(folder / name, content)
    for path in [*folder.glob("*.*"), *folder.glob("images/*")]:
        ours = path.suffix in (".html", ".txt", ".eml", ".png", ".jpg", ".gif", ".webp")
        if path.is_file() and ours and path.relative_to(folder).as_posix() not in build.files:
            path.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, keeping the permissions of one that it replaces. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _headers(edition: Edition) -> dict[str, object]:
    reply_to = edition.reply_to
    return {
        "subject": edition.subject,
        "from": [edition.sender.name, edition.sender.address],
        "reply_to": [reply_to.name, reply_to.address] if reply_to else None,
        "list_id": list(edition.list_id) if edition.list_id else None,
        "feedback_id": edition.feedback_id,
        "unsubscribe_mailbox": edition.unsubscribe_mailbox,
        "kind": edition.kind,
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
