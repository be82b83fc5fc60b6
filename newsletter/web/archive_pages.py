"""The pages of the archive: the list of all issues, and each issue as a page of its own.

They are made from what was frozen when an issue was sent, for the web application and for `newsletter archive` alike:
a `Press` knows where a page will stand, and so how it links to others. An issue's page is the message's HTML as it was
sent, with a bar above and below it; what was personal in it leads to the public pages instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from markupsafe import Markup

from newsletter.links import PATHS
from newsletter.rendering.edition import Edition, Image, filled
from newsletter.rendering.look import direction
from newsletter.store.published import Public, Published, load_editions
from newsletter.web.press import Card, Page, Press
from newsletter.web.words import Words, words_for

ON_A_PAGE = 50  # issues in one page of the list
HTML = "text/html; charset=utf-8"


def index_path(language: str, number: int = 1) -> str:
    """The path of a page of the list of issues."""
    first = f"/archive/{quote(language, safe='')}/"
    return first if number == 1 else f"{first}pages/{number}/"


def issue_path(row: Published) -> str:
    return f"/archive/{quote(row.language, safe='')}/{quote(row.issue, safe='')}/"


def feed_paths(language: str) -> tuple[tuple[str, str, str], ...]:
    """The feeds of a language: path, media type, name."""
    first = index_path(language)
    return (
        (f"{first}feed.atom", "application/atom+xml", "Atom"),
        (f"{first}feed.json", "application/feed+json", "JSON Feed"),
    )


# --- the list of issues -----------------------------------------------------------------------------------------------


def index_count(public: Public, language: str) -> int:
    """How many pages the list of issues has."""
    return max(1, -(-len(public.by_language.get(language, ())) // ON_A_PAGE))


def index_page(press: Press, public: Public, language: str, number: int = 1, *, here: str = "") -> Page | None:
    """A page of the list of a language's issues; None where there is none. `here` is where it stands, if elsewhere."""
    languages, last = press.languages(public), index_count(public, language)
    if language not in languages or not 1 <= number <= last:
        return None
    home = index_path(language, number)
    here = here or home
    rows = public.by_language.get(language, ())[(number - 1) * ON_A_PAGE : number * ON_A_PAGE]
    read_cards(press, rows)
    alternates = [(each, press.base_url + index_path(each)) for each in languages] if number == 1 else []
    body = press.site.pages.get_template("archive.html").render(
        **_common(press, public, language, here),
        issues=[(press.link(here, issue_path(row)), press.cards[row.edition]) for row in rows],
        number=number,
        last=last,
        newer=press.link(here, index_path(language, number - 1)) if number > 1 else "",
        older=press.link(here, index_path(language, number + 1)) if number < last else "",
        canonical=press.base_url + home,
        alternates=_with_default(press, alternates),
        tagline=press.site.text(press.site.config.tagline, language),
    )
    modified = max((row.at for row in public.by_language.get(language, ())), default=None)
    return Page(body=body.encode(), media_type=HTML, modified=modified)


def read_cards(press: Press, rows: Sequence[Published]) -> None:
    """Sees to it that the cards of these issues are there."""
    missing = [row.edition for row in rows if row.edition not in press.cards]
    for id, edition in load_editions(missing).items() if missing else ():
        imprint = edition.imprint
        press.cards[id] = Card(
            subject=edition.subject,
            number=imprint.number,
            date=imprint.date or edition.key,
            preheader=imprint.preheader,
        )


def not_found(press: Press, public: Public, language: str) -> Page:
    """What a web host shows where nothing is."""
    common = _common(press, public, language, "/404.html")
    words, url = common["words"], common["url"]
    body = press.site.pages.get_template("message.html").render(
        **common,
        heading=words("common.dead_link"),
        message=words("archive.not_here"),
        links=[(url(index_path(language)), words("archive.all_issues"))],
    )
    return Page(body=body.encode(), media_type=HTML)


def _common(press: Press, public: Public, language: str, here: str) -> dict[str, Any]:
    """What base.html needs to know (as `pages.page` has it for the other pages), and the feeds."""
    site, words = press.site, words_for(language)

    def url(path: str, **query: str) -> str:
        if path.startswith("/archive/"):
            return press.link(here, path)  # these have their language in the path
        return press.link(here, f"{path}?{urlencode({'lang': language, **query})}")

    return {
        "words": words,
        "language": language,
        "direction": direction(words.language),
        "languages": [(each, site.names.get(each, each)) for each in press.languages(public)],
        "url": url,
        "in_language": lambda each: press.link(here, index_path(each)),
        "plain_url": lambda path: press.link(here, path),
        "title": site.text(site.config.title, language),
        "postal_address": site.text(site.config.postal_address, language),
        "site": site,
        "feeds": [(press.link(here, path), media_type, name) for path, media_type, name in feed_paths(language)],
    }


def _with_default(press: Press, alternates: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of hreflang and address, with x-default: what is for whoever has another language."""
    known = dict(alternates)
    first = known.get(press.site.config.default_language) or next(iter(known.values()), "")
    return [*alternates, ("x-default", first)] if first else []


# --- an issue ---------------------------------------------------------------------------------------------------------


def issue_page(press: Press, public: Public, row: Published, edition: Edition) -> Page:
    """The page of an issue in one language."""
    here = issue_path(row)
    earlier, later = public.neighbours(row)
    read_cards(press, [each for each in (earlier, later) if each])
    others = list(public.by_issue[row.issue].values())
    picture = first_picture(edition)
    frame = _Frame(
        languages=[(each.language, press.link(here, issue_path(each))) for each in others],
        alternates=_with_default(press, [(each.language, press.base_url + issue_path(each)) for each in others]),
        earlier=_neighbour(press, here, earlier),
        later=_neighbour(press, here, later),
        canonical=press.base_url + here,
        picture=f"{press.base_url}/images/{picture.name}" if picture else "",
        published=row.first_at,
    )
    body = _framed(press, public, edition, here, frame)
    modified = max(each.at for each in (row, earlier, later, *others) if each)
    return Page(body=body, media_type=HTML, modified=modified, headers={"Content-Security-Policy": _policy(press)})


def private_page(press: Press, public: Public, edition: Edition, token: str, tokens: Mapping[str, str]) -> Page:
    """The page of an edition that is not public, for whoever has its link; `tokens` by the languages that it has."""

    def path(token: str) -> str:
        return f"/{PATHS['view']}/{token}"

    here = path(token)
    frame = _Frame(
        private=True, languages=[(language, press.link(here, path(each))) for language, each in tokens.items()]
    )
    body = _framed(press, public, edition, here, frame)
    headers = {"Content-Security-Policy": _policy(press), "X-Robots-Tag": "noindex"}
    return Page(body=body, media_type=HTML, cache="no-store", headers=headers)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """What stands around an issue."""

    private: bool = False
    languages: Sequence[tuple[str, str]]  # and the address in each
    alternates: Sequence[tuple[str, str]] = ()
    earlier: tuple[str, Card] | None = None  # address, and what is there
    later: tuple[str, Card] | None = None
    canonical: str = ""
    picture: str = ""
    published: datetime | None = None


def _neighbour(press: Press, here: str, row: Published | None) -> tuple[str, Card] | None:
    return (press.link(here, issue_path(row)), press.cards[row.edition]) if row else None


def _policy(press: Press) -> str:
    """A message's HTML has its style in it, and nothing else: no script, no form, no frame. `sandbox` would add nothing
    to that, and takes the links to places in the page away in some browsers."""
    parts = urlsplit(press.site.config.base_url)
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' {parts.scheme}://{parts.netloc}; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )


def _framed(press: Press, public: Public, edition: Edition, here: str, frame: _Frame) -> bytes:
    own = f"{press.link(here, here)}"
    html = neutral(press, edition, lambda path: press.link(here, path), view=own)
    head, body, content = _cut(html, edition)
    words = words_for(edition.language)
    known = press.site.names
    names = [(code, known.get(code, code), address) for code, address in frame.languages if code != edition.language]
    page = press.site.pages.get_template("archive_issue.html").render(
        **{**_common(press, public, edition.language, here), "languages": names},
        # What a template cannot make worse: it is the message as it was sent, under a policy of its own.
        head=Markup(head),  # noqa: S704
        body=Markup(body),  # noqa: S704
        content=Markup(content),  # noqa: S704
        frame=frame,
        edition=edition,
        locale=edition.language.replace("-", "_"),
        own=own,
        bar=_bar_tongue(words, edition.language),
        all_issues=press.link(here, index_path(edition.language)),
    )
    return page.encode()


def _bar_tongue(words: Words, language: str) -> Markup:
    """The language of our own words around an issue, where it is not the issue's."""
    if words.language == language.partition("-")[0]:
        return Markup("")
    return Markup(' lang="{}" dir="{}"').format(words.language, direction(words.language))


def neutral(press: Press, edition: Edition, link: Callable[[str], str], *, view: str, html: str = "") -> str:
    """The edition's HTML, or this part of it, for everybody: nobody's name or address in it, what was a personal link
    leads to the page that asks for one, pictures and places in the page itself are found wherever the page stands."""
    html = _NAMELESS.sub("", html or edition.html)
    names = {image.name for image in edition.images}

    def picture(match: re.Match[str]) -> str:
        name = match["linked"] or match["embedded"]
        return link(f"/images/{name}") if name in names else match[0]

    html = _PICTURE.sub(picture, html)
    hosts = {urlsplit(press.site.config.base_url).hostname, *_hosts_then(edition)} - {None}
    path = re.escape(f"/archive/{quote(edition.language, safe='')}/{quote(edition.key, safe='')}/")
    host = "|".join(re.escape(str(each)) for each in sorted(map(str, hosts)))
    html = re.sub(rf'="https?://(?:{host})(?::\d+)?(?:/[^"#?]*)?{path}(?P<place>#[^"]*)"', r'="\g<place>"', html)
    own = link(f"/me/?{urlencode({'lang': edition.language})}")
    slots = {"UNSUBSCRIBE_URL": own, "PREFERENCES_URL": own, "VIEW_URL": view, "NAME": "", "ADDRESS": ""}
    return filled(replace(edition, html=html), slots)[0]


# A greeting reads well without its name: the space before it goes, at a beginning the comma behind it, at an end the
# one before it.
_NAMELESS = re.compile(r"(?<=>)\s*@@NAME@@\s*[,;:]?\s*|,?[ \u00a0]?@@NAME@@(?=\s*[.,;:!?)<])|[ \u00a0]?@@NAME@@")
_FILE = r"[0-9a-f]{32}\.(?:png|jpg|gif|webp)"
_PICTURE = re.compile(rf"https?://[^\s\"'()<>]*?/images/(?P<linked>{_FILE})|cid:(?P<embedded>{_FILE})@newsletter")


def _hosts_then(edition: Edition) -> list[str]:
    """The host of base_url when the edition was made, which is part of its list's identifier."""
    return [edition.list_id[1].partition(".")[2]] if edition.list_id else []


_DOCUMENT = re.compile(
    r"(?P<head>.*?)</head\s*>\s*(?P<body><body\b[^>]*>)(?P<content>.*)</body\s*>\s*</html\s*>\s*",
    re.DOTALL | re.IGNORECASE,
)


def _cut(html: str, edition: Edition) -> tuple[str, str, str]:
    """A document's beginning up to `</head>`, its `<body …>`, and what is in that. What is no whole document gets
    a beginning of ours."""
    if match := _DOCUMENT.fullmatch(html):
        return match["head"], match["body"], match["content"]
    head = Markup(
        '<!doctype html>\n<html lang="{}" dir="{}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{}</title>\n'
    ).format(edition.language, edition.direction, edition.subject)
    return str(head), "<body>", html


def first_picture(edition: Edition) -> Image | None:
    """The picture that stands for an issue where it is shared: the first that is no logo by its size."""
    shown = [image for image in edition.images if image.name in edition.html]
    shown.sort(key=lambda image: edition.html.index(image.name))
    return next((image for image in shown if image.width >= 300 and image.height >= 150), None) or next(
        iter(shown), None
    )
