"""The command line. Thin: it reads arguments, calls what does the work, and is the only place that prints.

`newsletter --help` imports click and nothing else of weight: each command's module is imported when it runs.
"""

from __future__ import annotations

import gc
import importlib
import io
import keyword
import sys
from typing import Any

import click

from newsletter import __version__

# Name, module, first line of its help: what `--help` shows without importing the command. A test keeps them equal.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("demo", "demo", "Send the newest issue to the sample subscribers, into a folder on this machine."),
    ("init", "workspace", "Make a new workspace in DIR, with a sample issue to start from."),
    ("new", "issues", "Write a fresh issue file for DATE (default: the coming issue)."),
    ("collect", "issues", "Collect stories from feeds, pages and listings into issue files."),
    ("format", "issues", "Put issue files into their one canonical form."),
    ("check", "issues", "Report everything that could be wrong with an issue."),
    ("preview", "issues", "Show an issue in the browser, reloading at every save."),
    ("build", "issues", "Write html, txt and eml per language, and a manifest."),
    ("schema", "workspace", "Print the JSON Schema of issue files, for editors that check YAML."),
    ("subscribers", "subscribers", "Who gets the newsletter: add, show, import, export, unsubscribe, erase."),
    ("embed", "embed", "Print a sign-up form as HTML, to copy into any web site."),
    ("send", "sending", "Send an issue to everybody on a list whom it has not reached yet."),
    ("mailings", "mailings", "What was sent, what is being sent, and what became of everybody."),
    ("pause", "mailings", "Let nothing more of a mailing leave, until you resume it."),
    ("resume", "mailings", "Go on with a mailing that is paused."),
    ("cancel", "mailings", "End a mailing: whoever has not got it will not get it from this one."),
    ("resolve", "mailings", "Settle a mailing's doubts: treat them as sent, or send again."),
    ("worker", "following", "Send what is due: mailings, single mail, second tries, until you stop it."),
    ("workers", "workers", "Who is at work, on which machine, how fast, and what waits."),
    ("serve", "serve", "Serve the pages for members: sign-up, leaving, preferences, the archive."),
    ("archive", "archive", "Write every public issue as a static site: pages, pictures, feeds, sitemap."),
    ("dkim", "dkim", "Sign mail with DKIM: make keys, show their DNS records."),
    ("doctor", "doctor", "See whether mail would leave from here: settings, database, ways out, keys, caps."),
    ("backup", "database", "Write the database, the secret keys and the workspace into one file."),
    ("restore", "database", "Bring a backup back; every mailing in it waits for you."),
    ("migrate", "database", "Bring the database to the tables of this version."),
)


class Commands(click.Group):
    """A group whose commands are imported only when one of them runs or shows its own help."""

    table = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _, _ in self.table]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, module, _ in self.table:
            if name == cmd_name:
                attribute = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
                command: click.Command = getattr(importlib.import_module(f"newsletter.cli.{module}"), attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from newsletter.shape import nearest

            names = self.list_commands(ctx)
            hint = nearest(args[0], names) or f"; the commands are {', '.join(names)}"
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, _, help in self.table])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with `newsletter demo`, or `newsletter init my-news`. "
    "Exit codes: 0 done, 1 the input or a check says no, 2 usage, 3 a provider or database is down, 4 sent with "
    "recipients in doubt.",
)
@click.version_option(__version__, "-V", "--version", message="newsletter %(version)s")
@click.option(
    "-w",
    "--workspace",
    default=".",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="The workspace: the folder of newsletter.yaml. Default: here or above.",
)
@click.pass_context
def group(ctx: click.Context, workspace: str) -> None:
    """A newsletter kept as files and sent without losing anyone."""
    ctx.obj = workspace


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: never with a traceback for what a user or a file did."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for → and …
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """`main` without leaving the process: the exit code."""
    gc.set_threshold(20_000, 50, 50)  # a command makes much and drops little; collecting as often as usual costs it 5 %
    try:
        result: Any = group.main(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.Abort:
        click.echo("stopped", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit:  # click's answer when nobody reads on: `newsletter check | head`
        return 0
    except Exception as error:
        from newsletter.errors import DatabaseDown, InputError, NewsletterError, ProviderError

        if isinstance(error, InputError):
            from newsletter.cli.output import print_findings

            print_findings(error.findings, err=True)
            return 1
        if not isinstance(error, NewsletterError) and "newsletter.store.schema" in sys.modules:
            from newsletter.store.schema import database_down

            error = database_down(error) or error
        if isinstance(error, NewsletterError):
            click.echo(f"error: {error}", err=True)
            return 3 if isinstance(error, (ProviderError, DatabaseDown)) else 1
        if isinstance(error, OSError):
            name = error.filename2 or error.filename  # the second is where a finished file was to be moved
            click.echo(f"error: {f'{name}: ' if name else ''}{error.strerror or error}", err=True)
            return 1
        raise
