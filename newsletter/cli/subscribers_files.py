"""`newsletter subscribers import` and `newsletter subscribers export`."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from newsletter.cli.output import plural

if TYPE_CHECKING:
    from newsletter.config import Config
    from newsletter.store.columns import Plan
    from newsletter.store.importing import Report

STATES = ("subscribed", "unconfirmed", "unsubscribed")


def _columns(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    columns = {}
    for value in values:
        field, equals, column = value.partition("=")
        if not equals or not column:
            raise click.BadParameter(f'{value!r}: write FIELD="name of the column", such as email="E-mail address"')
        columns[field.strip().replace("-", "_")] = column
    return columns


def _words(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


@click.command("import")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--list", "list_", metavar="NAME", default="", help="Onto which list. Default: the one of newsletter.yaml."
)
@click.option(
    "--consent",
    metavar="TEXT",
    default="",
    help="How and when everybody in the file agreed to get the newsletter. Kept as proof.",
)
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option(
    "--column",
    "columns",
    metavar="FIELD=COLUMN",
    multiple=True,
    callback=_columns,
    help="Which column holds what, where that is not guessed rightly. May be given several times. Fields: email, name, "
    "first-name, last-name, language, tags, attributes, status, subscribed, unsubscribed, joined, confirmed.",
)
@click.option("--ignore", metavar="COLUMN", multiple=True, help="A column to pass over. May be given several times.")
@click.option(
    "--attributes",
    metavar="none|all|COLUMN,…",
    callback=_words,
    help="Which other columns to keep as attributes of the people. Default: none.",
)
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag for everybody. May be given several times.")
@click.option("--language", metavar="CODE", default="", help="The language of whoever has none in the file.")
@click.option(
    "--status",
    metavar="WORD",
    default="",
    help="What everybody in the file is: subscribed, unconfirmed, unsubscribed, bounced, complained or blocked.",
)
@click.option(
    "--preset",
    metavar="NAME",
    default="",
    help="Whose export it is, if that is not recognised: mailchimp, substack, ghost, listmonk, keila, buttondown, "
    "beehiiv, mailerlite; or none.",
)
@click.option("--encoding", metavar="NAME", default="", help="The encoding, if it is not guessed rightly.")
@click.option("--update", is_flag=True, help="Let names, languages and attributes of the file replace what is there.")
@click.pass_context
def import_(
    ctx: click.Context,
    files: tuple[Path, ...],
    *,
    list_: str,
    consent: str,
    dry_run: bool,
    columns: dict[str, str],
    ignore: tuple[str, ...],
    attributes: tuple[str, ...],
    tags: tuple[str, ...],
    language: str,
    status: str,
    preset: str,
    encoding: str,
    update: bool,
) -> None:
    """Import subscribers from CSV files or another service's export.

    A FILE is a table with a line for each person (from Excel, LibreOffice or any other program: comma, semicolon or
    tab, UTF-8 or not), or a zip of such tables. What its columns hold is guessed from their names; --dry-run shows what
    would happen.

    Nobody comes back who left: who unsubscribed, bounced, complained or was erased stays out. Somebody whose row does
    not prove that they agreed is imported as unconfirmed, and gets no mail, unless --consent says how everybody agreed.

    Rows that cannot be taken go to FILE.rejected.csv, with the reason: mend them there, and import that file. The same
    import may be run again at any time, also after it was stopped in the middle.

    \b
    Examples:
      newsletter subscribers import people.csv --dry-run
      newsletter subscribers import people.csv --consent "Signed up on paper at the fair of May 2017"
      newsletter subscribers import audience_export.zip --list weekly
      newsletter subscribers import old.csv --column email="E-mail address" --attributes Town,Phone
      newsletter subscribers import do-not-mail.csv --status blocked
    """
    from newsletter.cli.database import open_store
    from newsletter.cli.workspace import open_workspace

    config = open_workspace(ctx)
    open_store(config)
    from newsletter.store.cells import kept_tags
    from newsletter.store.columns import Choices
    from newsletter.store.importing import import_file

    choices = Choices(
        columns=columns,
        ignore=ignore,
        attributes=attributes,
        preset=preset,
        status=status,
        language=language,
        tags=kept_tags(tags),
        encoding=encoding,
    )
    changed = rows = 0
    for path in files:
        with _progress(config.shown(path)) as progress:
            report = import_file(
                config,
                path,
                list=list_,
                consent=consent,
                choices=choices,
                update=update,
                dry_run=dry_run,
                progress=progress,
            )
        _print(report, config, consent)
        changed += report.rows - report.rejected
        rows += report.rows
    if rows and not changed:  # nothing in any file could be used
        ctx.exit(1)


def _print(report: Report, config: Config, consent: str) -> None:
    for plan in report.plans:
        _print_plan(plan)
    for name in report.passed_over:
        click.echo(f"{name}: passed over, it holds no people")
    click.echo()
    click.secho(
        f"{plural(report.rows, 'row')}, list {report.list}{', dry run: nothing was changed' if report.dry_run else ''}",
        bold=True,
    )
    would = "would be " if report.dry_run else ""
    lines = [
        (report.new, "new", f"of them {report.unconfirmed:,} unconfirmed" if report.unconfirmed else ""),
        (report.updated, "updated", f"of them {report.confirmed:,} now confirmed" if report.confirmed else ""),
        (report.unchanged, "unchanged", "there already, nothing new"),
        (report.unsubscribed, "unsubscribed", "the file says that they left"),
        (report.now_suppressed, "suppressed", "the file says that they bounced, complained or are blocked"),
        (report.stay_unsubscribed, "stay unsubscribed", "they left here: an import brings nobody back"),
        (report.suppressed, "stay suppressed", "they bounced, complained or were suppressed here"),
        (report.erased, "stay erased", ""),
        (report.duplicates, "duplicates", "another row of the file is about the same address"),
        (report.rejected, "rejected", ""),
    ]
    for count, word, why in lines:
        if count:
            click.echo(f"  {count:>9,}  {word}{f'  ({why})' if why else ''}")
    for doubt, count in report.doubts.items():
        click.echo(f"  note: {doubt} ({plural(count, 'row')})")
    if report.rejected:
        click.echo("rejected because:")
        for reason, count in report.reasons.items():
            click.echo(f"  {count:>9,}  {reason}")
        for sheet, line, reason in report.examples[:5]:
            click.echo(f"    {sheet}:{line}: {reason}")
    if not report.dry_run:
        click.echo(f"took {report.seconds:.1f} s")
    _print_next(report, config, consent, would)


def _print_plan(plan: Plan) -> None:
    sheet = plan.sheet
    of = "an export of " if plan.preset and plan.preset.name != "newsletter" else ""
    kind = f", {of}{plan.preset.title} (known by {plan.why})" if plan.preset else ""
    click.echo(f"{click.style(sheet.name, bold=True)}: {sheet.dialect}{kind}")
    if plan.status:
        click.echo(f"  everybody in it: {plan.status}")
    for field, column in plan.meanings.items():
        click.echo(f"  {field.replace('_', '-'):<14} ← {column}")
    if plan.attributes:
        click.echo(f"  attributes     ← {', '.join(sheet.columns[place] for place in plan.attributes)}")
    if plan.unused:
        click.echo(f"  not imported: {', '.join(plan.unused)} (--attributes all, or the names of some, keeps them)")


def _print_next(report: Report, config: Config, consent: str, would: str) -> None:
    if any(reason.startswith("the status") for reason in report.reasons):
        click.echo("→ if the column of the status says something else of people, pass it over: --ignore COLUMN")
    for path in report.rejects:
        click.echo(f"→ mend the rejected rows in {config.shown(path)}, and import that file")
    if report.unconfirmed and not consent:
        click.echo(
            f"→ {report.unconfirmed:,} {would}unconfirmed: they get no mail. If you know how they agreed, say so and "
            'import again: --consent "…"'
        )
    if report.dry_run and report.rows > report.rejected:
        click.echo("→ to do it, leave out --dry-run")


@contextmanager
def _progress(name: str) -> Iterator[Callable[[str, float], None]]:
    """Shows how far an import has come: a bar on a terminal, a line every ten seconds in a pipe."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=1.0)
            yield lambda stage, done: bar.update(
                task, description=f"{stage} {name}", completed=done * 0.4 if stage == "reading" else 0.4 + done * 0.6
            )
        return
    told = time.monotonic()

    def tell(stage: str, done: float) -> None:
        nonlocal told
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            click.echo(f"{stage} {name}: {done:.0%}", err=True)

    yield tell


@click.command()
@click.option("--list", "list_", metavar="NAME", default="", help="Who is on this list. Default: everybody.")
@click.option(
    "--segment",
    metavar="NAME",
    default="",
    help="Only those of a segment of lists.yaml, or language=es, tag=board; of who is subscribed to the list.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only subscriptions in this state. May be given several times.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("csv", "json", "jsonl")),
    help="Default: what the name of the file says, else csv. jsonl: a JSON object a line.",
)
@click.option(
    "--out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where to. Default: standard output."
)
@click.pass_context
def export(
    ctx: click.Context, *, list_: str, segment: str, states: tuple[str, ...], format_: str | None, out: Path | None
) -> None:
    """Export subscribers as CSV or JSON.

    A row for each person on each list, with name, language, tags, attributes, the state of the subscription, how they
    agreed, and whether the address is suppressed. The CSV opens in a spreadsheet and can be imported again, into this
    workspace or another.

    The file holds addresses: only you may read it, and it should not lie around. Cells that a spreadsheet would take
    for a formula begin with a quote (').

    \b
    Examples:
      newsletter subscribers export --out people.csv
      newsletter subscribers export --list weekly --state subscribed --out weekly.csv
      newsletter subscribers export --segment tag=board --format json
    """
    from newsletter.cli.database import open_store
    from newsletter.cli.workspace import open_workspace

    config = open_workspace(ctx)
    open_store(config)
    from newsletter.store.exporting import FORMATS, Wanted, new_file
    from newsletter.store.exporting import export as export_people
    from newsletter.store.segments import parse_segment

    named = out.suffix.lower().removeprefix(".") if out else ""
    format = next((each for each in FORMATS if each == (format_ or named)), FORMATS[0])
    wanted = Wanted(
        list=list_ or (config.list if segment else ""),
        segment=parse_segment(config, segment) if segment else None,
        states=states,
    )
    if out:
        with new_file(out) as file:
            count = export_people(config, wanted, file, format=format)
        click.echo(f"{plural(count, 'row')} in {config.shown(out)}; it holds addresses, and only you can read it")
    else:
        stream = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="")  # whatever the terminal's encoding is
        try:
            export_people(config, wanted, stream, format=format)
            stream.flush()
        finally:
            stream.detach()
