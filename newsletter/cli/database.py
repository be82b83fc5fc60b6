"""`newsletter migrate`, `newsletter backup`, `newsletter restore`, and how every command opens the database."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import click

from newsletter.cli.output import command, plural
from newsletter.cli.workspace import open_workspace
from newsletter.config import FILE, Config, load_config
from newsletter.errors import ConfigError, Finding


def open_store(config: Config) -> None:
    """Makes the workspace's database ready for this process, or says why not; then `newsletter.store` may be imported.

    An SQLite file is made and migrated by itself. Raises `ConfigError`, and the `StoreError`s: `DatabaseDown`,
    `SchemaMismatch`, `WrongKey`.
    """
    configure_database(config)
    from newsletter.store import keys, schema

    schema.prepare(config, tell=_tell)
    with schema.explained():
        keys.check_keys(config)


def configure_database(config: Config) -> None:
    """Tells Django which database it is, and no more: nothing is made, asked or migrated. Raises `ConfigError`."""
    if config.database_url:
        try:
            importlib.import_module("psycopg")
        except ImportError as error:  # not there, or there without the library of PostgreSQL
            message = (
                f"DATABASE_URL names a PostgreSQL database, and psycopg, which speaks to it, does not load: {error}"
            )
            help = "type: pip install 'psycopg[binary]'"
            finding = Finding(code="config.psycopg", severity="error", where=None, message=message, help=help)
            raise ConfigError([finding]) from error
    from newsletter.settings import configure

    configure(replace(config, root=config.root.absolute()))


def _tell(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.pass_context
def migrate(ctx: click.Context) -> None:
    """Bring the database to the tables of this version.

    An SQLite file is migrated by itself whenever it is opened, after a copy; this command does no more. On PostgreSQL
    it is what you type after an upgrade: stop every worker, make a backup, migrate, start them again. Two at the same
    moment wait for each other.

    \b
    Example:
      newsletter migrate
    """
    config = open_workspace(ctx)
    configure_database(config)
    from newsletter.store import keys, schema

    applied = schema.migrate(config, tell=_tell)
    with schema.explained():
        keys.check_keys(config)
    if applied:
        click.echo(f"{schema.database_name()}: migrated ({', '.join(applied)}).")
    else:
        click.echo(f"{schema.database_name()}: nothing to migrate.")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_context
def backup(ctx: click.Context, file: Path) -> None:
    """Write the database, the secret keys and the workspace into one file.

    FILE is a new .tar.gz, or a folder, which gets one with a dated name. Workers need not stop: the database is copied
    as it is at one moment. The file holds addresses and secrets, so only you may read it. What git or a build keeps is
    not in it (build/, .git), nor are passwords for mail servers and databases.

    \b
    Examples:
      newsletter backup news.tar.gz
      newsletter backup /mnt/backups          (for every night)
    """
    config = open_workspace(ctx)
    configure_database(config)
    from newsletter.store import backup as backups
    from newsletter.store.archive import size

    done = backups.back_up(replace(config, root=config.root.absolute()), file, tell=_tell)
    for line in done.left_out:
        click.echo(f"left out: {line}", err=True)
    click.echo(f"{done.path}: {size(done.size)}, written and read back.")
    click.echo("It holds addresses and the secret keys: keep it where nobody else can read it, and never in git.")
    click.echo(f"To bring it back: {command()} restore {done.path}")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--replace", "replacing", is_flag=True, help="Move aside what is in the way, under a dated name.")
@click.pass_context
def restore(ctx: click.Context, file: Path, replacing: bool) -> None:
    """Bring a backup back; every mailing in it waits for you.

    FILE is checked to its end before anything is touched. It goes into the folder where you are (or --workspace DIR):
    a new one, or a clone of the workspace. A file there that differs, or a database with people in it, is left alone
    unless you say --replace. With DATABASE_URL set, the rows go into that PostgreSQL database.

    \b
    Examples:
      mkdir news && cd news && newsletter restore ../news.tar.gz
      newsletter restore news.tar.gz --replace
    """
    root = Path(ctx.obj).absolute()
    strange = {each.name for each in root.iterdir()} - {".git", ".gitignore", ".env"}
    strange = {name for name in strange if not name.startswith(".restoring-")}  # of a restore that was killed
    if strange and not (root / FILE).is_file():
        names = ", ".join(sorted(strange)[:5])
        raise click.ClickException(
            f"{root} is neither empty nor a workspace ({names}); make a new folder, go there, and restore"
        )
    from newsletter.store import archive

    _tell(f"reading {file} ({archive.size(file.stat().st_size)})")
    with archive.unpacked(file, root) as unpacked:
        config = load_config(unpacked.workspace)
        configure_database(config)
        from newsletter.store import backup as backups

        done = backups.restore(unpacked, config, root, replace=replacing, tell=_tell)
        created = f"{unpacked.manifest.created:%Y-%m-%d %H:%M} UTC"
    configure_database(replace(config, root=root))
    files = plural(done.files, "file") if done.files else "no file, since all are as they were"
    click.echo(f"Restored the backup of {created}: the database, and {files}.")
    for line in done.aside:
        click.echo(f"Moved aside: {line}")
    click.echo("What came after the backup is not in it. Before you send anything:")
    click.echo("  whoever left since then is still subscribed: unsubscribe them again")
    click.echo("  an issue that was sent since then is not known to be sent: do not send it again")
    for id in done.paused:
        click.echo(f"  mailing {id} is paused: {command()} mailings {id} says how many it may have reached since")
