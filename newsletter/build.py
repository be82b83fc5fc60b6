"""Finished files of an issue: html, txt and a sealed sample per language, the images, and a manifest that identifies
them.

Byte-reproducible: nothing here reads a clock, a locale or a random number. The manifest's SHA-256 is the name of what
was approved and sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

from newsletter.config import Config
from newsletter.content.issue import Issue
from newsletter.envelope import Envelope, Recipient
from newsletter.links import SAMPLE, personal_url, urls
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
    if edition.private:
        slots["VIEW_URL"] = personal_url(config.base_url, SAMPLE, "view", delivery)
    return Recipient(key=f"sample-{delivery}", address=address, name=name, slots=slots)


def noon(day: date) -> datetime:
    """The moment at which a sample is dated: noon UTC of the issue's day."""
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


envelope_of = lru_cache(maxsize=8)(Envelope)
"""An edition's envelope; a build that follows a check gets the same one. Raises what `Envelope` raises."""


def seal_sample(edition: Edition, config: Config, day: date) -> bytes:
    """The message as the sample reader would get it. Raises what `Envelope` and `Envelope.seal` raise."""
    return envelope_of(edition).seal(sample_recipient(edition, config), date=noon(day))


def build_issue(issue: Issue, editions: Mapping[str, Edition], config: Config) -> Build:
    """Every file of a build. Raises what `Envelope` raises for an edition that cannot be sent."""
    files: dict[str, bytes] = {}
    described: dict[str, object] = {}
    images: dict[str, str] = {}
    for language, edition in sorted(editions.items()):
        parts = {
            f"{language}.html": edition.html.encode(),
            f"{language}.txt": edition.text.encode(),
            f"{language}.eml": seal_sample(edition, config, issue.date),
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
            **({"private": True} if edition.private else {}),
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
    """Writes the files, each whole or not at all, the manifest last.

    Files that the manifest of an earlier build names and this one lacks are removed, and no others: `folder` may be a
    folder that holds more than builds.
    """
    before = _built(folder / "manifest.json")
    for name, content in build.files.items():
        write_file(folder / name, content)
    for name in before.difference(build.files):
        (folder / name).unlink(missing_ok=True)


_OURS = re.compile(r"[A-Za-z0-9-]+\.(html|txt|eml|mjml)|images/[0-9a-f]{32}\.(png|jpg|gif|webp)")


def _built(manifest: Path) -> set[str]:
    """The files of the build that a manifest describes; none where it cannot be read."""
    try:
        described = json.loads(manifest.read_bytes())
        names = {f"{language}.{kind}" for language in described["editions"] for kind in ("html", "txt", "eml", "mjml")}
        names |= {f"images/{name}" for name in described["images"]}
    except (OSError, ValueError, LookupError, TypeError):  # somebody else's manifest.json, or none
        return set()
    return {name for name in names if _OURS.fullmatch(name)}


def write_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Writes a file whole or not at all, with these permissions, or those of the file that it replaces, or the usual
    ones. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
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
