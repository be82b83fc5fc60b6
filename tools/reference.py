"""Writes the reference pages that come from the code: docs/settings.md, docs/issue-reference.md, docs/commands.md.

python tools/reference.py            write them
python tools/reference.py --check    exit 1 when one of them is stale (tests/test_docs.py does the same)
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from newsletter.cli import COMMANDS, group
from newsletter.config import CONFIG, ENVIRONMENT
from newsletter.content.issue import BLOCK, ISSUE
from newsletter.content.lists import LISTS
from newsletter.rendering.look import LABELS, THEME
from newsletter.shape import Field, Shape

DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- Made by tools/reference.py from the code: change it there, then run `make docs`. -->\n"

KINDS = {
    "line": "a line of text, or one per language",
    "markdown": "Markdown, or one text per language",
    "string": "a line of text",
    "value": "a text or a number",
    "date": "a date, YYYY-MM-DD",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "word": "a word: letters, digits, - and _",
    "choice": "one of its choices",
    "language": "a language code (en, es, pt-BR)",
    "url": "a full http(s) address",
    "address": "a mail address",
    "colour": 'a colour, "#rrggbb"',
}


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {"settings.md": settings(), "issue-reference.md": issue_reference(), "commands.md": commands()}


def settings() -> str:
    variables = "\n".join(f"| `{each.name}` | {each.help} |" for each in ENVIRONMENT)
    return f"""{MADE}
# Settings

`newsletter.yaml` says everything about a newsletter that is not secret. A key that is unknown or mistyped is an error
with its line and the nearest right name. A text may be one for all languages, or a map: `{{en: …, es: …}}`.

{tables(CONFIG, "newsletter.yaml")}
## Environment

Secrets come from the environment, or from a file `.env` beside newsletter.yaml that git ignores (`NAME=value` in each
line; the environment wins). A name that begins with `NEWSLETTER_` and is not listed here is an error.

| variable | what it does |
|---|---|
{variables}
"""


def issue_reference() -> str:
    return f"""{MADE}
# What the files of a workspace may hold

The same tables as a JSON Schema, for editors that complete and check YAML while you type: `newsletter schema`.
How to write an issue: [issue-files.md](issue-files.md).

{tables(ISSUE, "issues/YYYY-MM-DD.yaml")}
{tables(BLOCK, "issues/blocks.yaml, each block")}
{tables(LISTS, "subscribers/lists.yaml")}
{tables(THEME, "templates/theme.yaml")}
{tables(LABELS, "templates/labels.yaml, each language")}"""


def tables(shape: Shape, title: str, seen: frozenset[str] = frozenset()) -> str:
    out = [f"## {title}\n", "| key | what it is | default | what for |", "|---|---|---|---|"]
    inner: list[tuple[str, Shape]] = []
    for field in shape.fields:
        out.append(row(field))
        if isinstance(field.kind, Shape):
            inner.append((f"{field.name}{', each' if field.many else ''}", field.kind))
    text = "\n".join(out) + "\n"
    seen |= {shape.name}  # a condition may stand inside a condition
    for name, kind in inner:
        if kind.name in seen:
            continue
        seen |= {kind.name}
        names = [other for other, each in inner if each is kind]
        title = " and ".join(f"`{each}`" for each in names) or name
        text += "\n" + tables(kind, title, seen).replace("## ", "### ", 1)
    return text


def row(field: Field) -> str:
    kind = "keys of its own, below" if isinstance(field.kind, Shape) else KINDS[field.kind]
    if field.choices:
        kind = " · ".join(f"`{choice}`" for choice in field.choices)
    if field.many:
        kind = f"a list: {kind}"
    if field.keyed:
        kind = f"a map of names: {kind}"
    default = "**required**" if field.required else ""
    if field.default not in (None, (), {}):
        shown = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        default = f"`{shown}`"
    return f"| `{field.name}` | {kind} | {default} | {field.help} |"


def commands() -> str:
    out = [MADE, "# Commands\n", block(help_of(group, "newsletter"))]
    for name, _, _ in COMMANDS:
        command = group.get_command(click.Context(group, info_name="newsletter"), name)
        assert command is not None
        out += [f"\n## newsletter {name}\n", block(help_of(command, f"newsletter {name}"))]
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name)
            for inner in command.list_commands(context):
                each = command.get_command(context, inner)
                assert each is not None
                full = f"newsletter {name} {inner}"
                out += [f"\n### {full}\n", block(help_of(each, full))]
    return "\n".join(out)


def help_of(command: click.Command, name: str) -> str:
    names = ["-h", "--help"]
    context = click.Context(command, info_name=name, terminal_width=96, max_content_width=96, help_option_names=names)
    return command.get_help(context)


def block(text: str) -> str:
    return f"```\n{text.rstrip()}\n```\n"


def main() -> None:
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if not path.is_file() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, "utf-8")
    print(f"written: {', '.join(stale)}" if stale else "nothing to write")
    if stale and "--check" in sys.argv:
        sys.exit(1)


if __name__ == "__main__":
    main()
