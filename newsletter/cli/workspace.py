"""`newsletter init`, `newsletter schema`."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import click

from newsletter.build import write_file
from newsletter.cli.output import command
from newsletter.config import FILE, Config, find_workspace, load_config
from newsletter.content.issue import BLOCK, ISSUE, STORY, issue_paths
from newsletter.content.lists import LISTS
from newsletter.rendering.render import sample_root
from newsletter.shape import Shape, json_schema

GITIGNORE = """\
# what a build writes, secrets, the database and what belongs to it
build/
.env
*.sqlite3*
subscribers/recorders/
subscribers/dkim/
"""


def fresh_secrets() -> str:
    """The text of a .env with new secret keys."""
    return "".join(f"{name}={secrets.token_urlsafe(32)}\n" for name in ("NEWSLETTER_SECRET_KEY", "NEWSLETTER_PEPPER"))


def open_workspace(ctx: click.Context) -> Config:
    """The configuration of the workspace that the command line names. Raises ConfigError."""
    return load_config(find_workspace(Path(ctx.obj)))


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Make a new workspace in DIR, with a sample issue to start from.

    DIR must be new, or empty but for a .git. It gets newsletter.yaml, issues/, templates/, subscribers/ and a .env with
    fresh secret keys, which never go into git: keep a copy of them where your passwords are.

    \b
    Examples:
      newsletter init my-news
      cd my-news && newsletter preview
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {".git"}):
        raise click.ClickException(
            f"{folder} is there and not empty; name a new folder, so that nothing is overwritten"
        )
    sample = sample_root()
    newest = issue_paths(sample / "issues")[-1]
    chosen = [sample / FILE, newest, sample / "issues" / "blocks.yaml"]
    for part in ("issues/images", "templates", "subscribers"):
        chosen += [
            path for path in sorted((sample / part).rglob("*")) if path.is_file() and not path.name.startswith(".")
        ]
    for path in chosen:
        if ".sqlite3" not in path.name:
            write_file(folder / path.relative_to(sample), path.read_bytes())
    write_file(folder / ".gitignore", GITIGNORE.encode())
    write_file(folder / ".env", fresh_secrets().encode(), mode=0o600)
    click.echo(f"{folder}: a workspace with one sample issue, {newest.name}.")
    click.echo("Next:")
    click.echo(f"  cd {folder}")
    click.echo(f"  {command(folder)} preview      look at it; change a file and save")
    click.echo("  edit newsletter.yaml    your title, sender and postal address")
    click.echo(f"  {command(folder)} new          begin your own issue")


@click.command()
@click.option(
    "--of", type=click.Choice(["issue", "blocks", "story", "lists"]), default="issue", help="Which kind of file."
)
@click.pass_context
def schema(ctx: click.Context, of: str) -> None:
    """Print the JSON Schema of issue files, for editors that check YAML.

    \b
    Examples:
      newsletter schema > issue.schema.json
      newsletter schema --of blocks > blocks.schema.json
    """
    languages = open_workspace(ctx).languages
    shapes: dict[str, Shape] = {"issue": ISSUE, "blocks": BLOCK, "story": STORY, "lists": LISTS}
    described = json_schema(shapes[of], title=f"newsletter {of}", languages=languages)
    if of == "blocks":
        described = {
            "$schema": described.pop("$schema"),
            "title": described.pop("title"),
            "type": "object",
            "additionalProperties": described,
        }
    click.echo(json.dumps(described, ensure_ascii=False, indent=2))
