"""`newsletter embed`."""

from __future__ import annotations

import click

from newsletter.cli.output import command

# The box of the snippet, for sites whose own style sheet says nothing about forms. No colours: those are the site's.
_BOX = "max-width: 24rem"
_LINE = "width: 100%; box-sizing: border-box; padding: 0.5rem; font: inherit"
_BUTTON = "padding: 0.5rem 1rem; font: inherit"


@click.command()
@click.option("--list", "chosen", multiple=True, metavar="LIST", help="The list to sign up for. May be repeated.")
@click.option("--language", metavar="LANGUAGE", help="The language of the form. Default: the first of newsletter.yaml.")
@click.option("--plain", is_flag=True, help="Without any style.")
@click.pass_context
def embed(ctx: click.Context, chosen: tuple[str, ...], language: str | None, *, plain: bool) -> None:
    """Print a sign-up form as HTML, to copy into any web site.

    It has no script and asks for nothing but the address. Its button opens the sign-up page of your newsletter with the
    address filled in; nothing is kept before the button there is pressed. With several lists and no --list, the
    visitor chooses there.

    \b
    Examples:
      newsletter embed
      newsletter embed --list weekly --language es
    """
    from newsletter.cli.workspace import open_workspace
    from newsletter.content.lists import load_lists
    from newsletter.shape import nearest

    config = open_workspace(ctx)
    offered = [each.id for each in load_lists(config).lists.values() if not each.private]
    if not offered:
        file = config.shown(config.lists)
        raise click.ClickException(f"every list of {file} is private; take `private: true` from one that all may join")
    for name in chosen:
        if name not in offered:
            hint = nearest(name, offered) or f"; the lists that people can join are {', '.join(offered)}"
            raise click.UsageError(f"--list: people cannot join {name!r}{hint}")
    language = language or config.default_language
    if language not in config.languages:
        hint = nearest(language, config.languages) or f"; its languages are {', '.join(config.languages)}"
        raise click.UsageError(f"--language: {language!r} is not a language of this workspace{hint}")
    title = next((config.title[each] for each in (language, *config.languages) if config.title.get(each)), "")
    click.echo(snippet(config.base_url, title=title, lists=chosen, language=language, plain=plain))
    click.echo(f"To see where it leads: {config.base_url}/signup/ ({command()} serve)", err=True)


def snippet(base_url: str, *, title: str, lists: tuple[str, ...], language: str, plain: bool) -> str:
    """The form, to stand in any page."""
    from markupsafe import Markup

    from newsletter.web.words import words_for

    words = words_for(language)
    hidden = Markup("\n").join(Markup('  <input type="hidden" name="list" value="{}">').format(name) for name in lists)
    style = {"box": _BOX, "line": _LINE, "button_style": _BUTTON}
    styles = {name: "" if plain else Markup(' style="{}"').format(text) for name, text in style.items()}
    return Markup(_SNIPPET).format(  # noqa: S704 - what is filled in is escaped
        title=title,
        heading=words("signup.heading", title=title),
        label=words("signup.email"),
        button=words("signup.button"),
        language=words.language,
        address=f"{base_url}/signup/?lang={language}",
        hidden=hidden + Markup("\n") if hidden else "",
        **styles,
    )


_SNIPPET = """\
<!-- {title} -->
<form action="{address}" method="post" accept-charset="utf-8" lang="{language}" aria-label="{heading}"{box}>
{hidden}  <p>
    <label for="newsletter-email">{label}</label><br>
    <input id="newsletter-email" name="email" type="email" maxlength="254" autocomplete="email" required{line}>
  </p>
  <p><button type="submit"{button_style}>{button}</button></p>
</form>"""
