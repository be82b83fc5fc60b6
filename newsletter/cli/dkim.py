"""`newsletter dkim …`: the keys that sign what leaves by SMTP, and their records in the DNS."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from newsletter.cli import Commands
from newsletter.cli.output import command, print_findings

if TYPE_CHECKING:
    from newsletter.config import Config, Dkim
    from newsletter.dkim import Key

# Name, module, first line of its help, as in newsletter.cli.COMMANDS.
SUBCOMMANDS: tuple[tuple[str, str, str], ...] = (
    ("new", "dkim", "Make a key, and show the DNS record that goes with it."),
    ("show", "dkim", "Show the keys that are here, their DNS records, and which are in use."),
)


class _Subcommands(Commands):
    table = SUBCOMMANDS


@click.group(cls=_Subcommands)
def dkim() -> None:
    """Sign mail with DKIM: make keys, show their DNS records.

    A signature shows a receiver that the mail is yours and was not changed. The keys are files in subscribers/dkim.

    \b
    Examples:
      newsletter dkim new
      newsletter dkim show
    """


@click.command()
@click.argument("selector", required=False)
@click.option("--ed25519", is_flag=True, help="A short key of the newer kind, for use beside an RSA key.")
@click.pass_context
def new(ctx: click.Context, selector: str | None, *, ed25519: bool) -> None:
    """Make a key, and show the DNS record that goes with it.

    SELECTOR names the key, in newsletter.yaml and in the DNS. Default: of the month, such as n2026-11, or e2026-11 for
    an Ed25519 key. A key that is there is never replaced, and nothing is signed before newsletter.yaml names the key.

    \b
    Examples:
      newsletter dkim new
      newsletter dkim new summer --ed25519
    """
    from newsletter.cli.workspace import open_workspace
    from newsletter.dkim import is_selector, new_key, read_key, record_name

    config = open_workspace(ctx)
    settings = _settings(config)
    domain = _domain(config, settings)
    selector = selector or f"{'e' if ed25519 else 'n'}{datetime.now(UTC):%Y-%m}"
    if not is_selector(selector):
        raise click.UsageError("SELECTOR: at most 63 of A-Z a-z 0-9 - _, with a letter or a digit at both ends")
    path = settings.keys / f"{selector}.pem"
    key = new_key(selector, "ed25519" if ed25519 else "rsa")
    try:
        _keep(path, key.pem)
    except FileExistsError:
        there, _ = read_key(settings.keys, selector)
        what = _kind(there) if there else "something that is no key to sign with"
        use = " and is in use" if selector in settings.selectors else ""
        raise click.ClickException(
            f"{config.shown(path)} is there already: it is {what}{use}, and is not replaced; name another, such as "
            f"{selector[:60]}-b. `{command()} dkim show` shows its record"
        ) from None
    name = record_name(selector, domain)
    click.echo(f"{config.shown(path)}: {_kind(key)}. Keep it secret; git ignores it, and `newsletter backup` holds it.")
    click.echo(f"\n1. Make this record where the DNS of {domain} is kept:\n")
    _print_record(name, key)
    click.echo(f"\n2. Wait until it can be seen: dig +short TXT {name}")
    click.echo("\n3. Then write into newsletter.yaml:\n")
    click.echo("   dkim:")
    click.echo(f"     selectors: [{', '.join(_selectors(settings, key))}]")
    if settings.domain:
        click.echo(f"     domain: {settings.domain}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> int:
    """Show the keys that are here, their DNS records, and which are in use.

    Exit code 1 when newsletter.yaml names a key that cannot sign.

    \b
    Examples:
      newsletter dkim show
      newsletter dkim show --json
    """
    from newsletter.cli.workspace import open_workspace
    from newsletter.dkim import examine, read_key, record_name, strings

    config = open_workspace(ctx)
    settings = _settings(config)
    domain = _domain(config, settings)
    here = sorted(path.stem for path in settings.keys.glob("*.pem"))
    _, findings = examine(settings, sender=config.sender.address)
    keys: list[Key] = []
    for selector in dict.fromkeys((*settings.selectors, *here)):
        key, found = read_key(settings.keys, selector)
        if key:
            keys.append(key)
        if selector not in settings.selectors:  # nothing depends on it
            findings += [replace(each, severity="warning") for each in found]
    wrong = any(finding.severity == "error" for finding in findings)
    if as_json:
        described: dict[str, Any] = {
            "domain": domain,
            "keys": [
                {
                    "selector": key.selector,
                    "kind": key.kind,
                    "bits": key.bits,
                    "in_use": key.selector in settings.selectors,
                    "name": record_name(key.selector, domain),
                    "type": "TXT",
                    "value": key.record,
                    "strings": strings(key.record),
                }
                for key in keys
            ],
            "findings": [finding.as_json() for finding in findings],
        }
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return int(wrong)
    if not keys and not findings:
        click.echo(f"No keys in {config.shown(settings.keys)}; make one: {command()} dkim new")
    for key in keys:
        use = "in use" if key.selector in settings.selectors else "not in use"
        click.echo(f"{click.style(key.selector, bold=True)}: {_kind(key)}, {use}\n")
        _print_record(record_name(key.selector, domain), key)
        click.echo()
    print_findings(findings)
    return int(wrong)


def _settings(config: Config) -> Dkim:
    from newsletter.config import Dkim

    return config.dkim or Dkim(selectors=(), domain="", keys=config.root / "subscribers" / "dkim")


def _domain(config: Config, settings: Dkim) -> str:
    """The domain whose DNS has the records, as A-labels. Raises `ConfigError`, `AddressError`."""
    from newsletter.dkim import signing_domain
    from newsletter.headers import addr_spec

    return signing_domain(settings) or addr_spec(config.sender.address).rpartition("@")[2]


def _keep(path: Path, pem: bytes) -> None:
    """Writes a new file with a key, for its owner alone. Raises `FileExistsError`, `OSError`."""
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    ignored = path.parent / ".gitignore"  # a workspace may be older than these keys, and its .gitignore not know them
    if not ignored.exists():
        ignored.write_text("*\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _kind(key: Key) -> str:
    return f"an RSA key of {key.bits:,} bits" if key.kind == "rsa" else "an Ed25519 key"


def _selectors(settings: Dkim, key: Key) -> list[str]:
    """What newsletter.yaml should name: the new key in the place of those of its kind, and beside the others."""
    from newsletter.dkim import read_key

    others = [read_key(settings.keys, selector)[0] for selector in settings.selectors]
    kept = [other.selector for other in others if other and other.kind != key.kind]
    return [key.selector, *kept] if key.kind == "rsa" else [*kept, key.selector]


def _print_record(name: str, key: Key) -> None:
    from newsletter.dkim import strings

    click.echo(f"   name   {name}")
    click.echo("   type   TXT")
    click.echo(f"   value  {key.record}")
    pieces: Sequence[str] = strings(key.record)
    if len(pieces) > 1:
        click.echo("\n   In a zone file, where no string may have more than 255 characters:\n")
        quoted = "\n     ".join(f'"{piece}"' for piece in pieces)
        click.echo(f"   {name}. IN TXT (\n     {quoted} )")
