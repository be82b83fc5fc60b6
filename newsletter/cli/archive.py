"""`newsletter archive`: what was sent, as a static site for any web host."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from newsletter.build import write_file
from newsletter.cli.database import open_store
from newsletter.cli.output import command, plural
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config

if TYPE_CHECKING:
    from newsletter.web.archive_site import Piece

MANIFEST = ".newsletter-archive.json"


@click.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder to write to: a new or empty one, or that of an earlier run.",
)
@click.option("--base-url", default="", metavar="URL", help="Where the folder will be found. Default: base_url.")
@click.pass_context
def archive(ctx: click.Context, *, out: Path, base_url: str) -> None:
    """Write every public issue as a static site: pages, pictures, feeds, sitemap.

    It is what /archive/ shows, for a web host that serves nothing but files. Links lead from file to file, so that it
    works in any folder, and from the disk. To sign up and to change preferences leads to the pages at base_url.

    A later run writes what has changed, removes what it wrote earlier and is no longer there, and touches no other
    file. The same database and files give the same bytes.

    \b
    Examples:
      newsletter archive --out /tmp/archive
      newsletter archive --out public --base-url https://archive.example.org
    """
    config = open_workspace(ctx)
    base_url = _checked(base_url) if base_url else config.base_url.rstrip("/")
    before = _names_before(out)
    open_store(config)
    from newsletter.web.archive_site import static_site
    from newsletter.web.site import load_site

    made = static_site(load_site(config), base_url=base_url)
    run = _Run(out=out, config=config, before=before)
    names = {piece.name for piece in made.pieces}
    run.claim(names)
    run.write(_told(made.pieces))
    run.write(made.pictures())
    removed = run.finish()
    click.echo(
        f"{plural(made.issues, 'page')} of issues in {config.shown(out)}/: {run.written:,} of {len(run.hashes):,} "
        f"files written, {run.same:,} as they were, {removed:,} removed"
    )
    if not made.issues:
        click.echo(f"Nothing public has been sent yet. Next: {command()} send ISSUE, then this once more.")
    click.echo(f"Open {config.shown(out / 'index.html')} in a browser, or copy the folder to {base_url}/")


def _told(pieces: Sequence[Piece]) -> Iterable[Piece]:
    """The pieces one by one, telling how far it is: a bar on a terminal, a line every ten seconds in a pipe."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(pieces, "pages", console=Console(stderr=True), transient=True)
        return
    told = time.monotonic()
    for count, piece in enumerate(pieces):
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            click.echo(f"{count:,} of {len(pieces):,} pages", err=True)
        yield piece


def _checked(base_url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@\"'<>]+(?:/[^\s?#\"'<>]*)?", base_url):
        raise click.UsageError("--base-url: write a whole address: https://archive.example.org, or with a path")
    return base_url.rstrip("/")


def _names_before(out: Path) -> Mapping[str, str]:
    """The files of an earlier run and their SHA-256. Refuses a folder with other things in it."""
    try:
        known = json.loads((out / MANIFEST).read_text("utf-8"))["files"]
        return {str(name): str(hash) for name, hash in known.items() if _inside(str(name))}
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise click.ClickException(
                f"{out} is not empty, and newsletter archive did not write it: name a new folder"
            ) from None
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise click.ClickException(
            f"{out / MANIFEST} cannot be read: it says which files are ours. Name a new folder, or empty this one"
        ) from None


def _inside(name: str) -> bool:
    """Whether a name stays in the folder."""
    return not ({"", ".", ".."} & set(name.split("/"))) and not re.search(r"[\\\x00-\x1f]", name)


@dataclass(kw_only=True)
class _Run:
    """One writing of the folder."""

    out: Path
    config: Config
    before: Mapping[str, str]
    written: int = 0
    same: int = 0
    hashes: dict[str, str] = field(default_factory=dict)

    def claim(self, names: Iterable[str]) -> None:
        """Says in the manifest what will be ours, so that a run that is broken off leaves nothing that nobody knows."""
        for name in sorted(names):
            if not _inside(name):
                raise click.ClickException(f"{name!a} is no name for a file: rename the issue, and send it again")
            if name not in self.before and (self.out / name).exists():
                raise click.ClickException(
                    f"{self.config.shown(self.out / name)} is in the way, and newsletter archive did not write it: "
                    "move it elsewhere"
                )
        self._note({**dict.fromkeys(names, ""), **self.before})

    def write(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            content = piece.make()
            self.hashes[piece.name] = hashlib.sha256(content).hexdigest()
            path = self.out / piece.name
            if path.is_file() and path.read_bytes() == content:
                self.same += 1
            else:
                write_file(path, content)
                self.written += 1

    def finish(self) -> int:
        """Removes what no longer belongs; says how many files."""
        removed = 0
        for name in sorted(self.before.keys() - self.hashes.keys()):
            path = self.out / name
            if path.is_file():
                path.unlink()
                removed += 1
            for folder in path.parents:
                if folder == self.out or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        self._note(self.hashes)
        return removed

    def _note(self, files: Mapping[str, str]) -> None:
        text = json.dumps({"format": 1, "files": dict(sorted(files.items()))}, indent=1, ensure_ascii=False) + "\n"
        path = self.out / MANIFEST
        if not (path.is_file() and path.read_text("utf-8") == text):
            write_file(path, text.encode())
