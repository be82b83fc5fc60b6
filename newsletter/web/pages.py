"""How a page is made: in the visitor's language, from a template, without a cookie, and without scripts if need be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from django.http import HttpRequest, HttpResponse
from markupsafe import Markup

from newsletter.rendering.look import direction
from newsletter.web.site import site
from newsletter.web.words import wished, words_for

NO_STORE = "no-store"  # of every page that a personal link opens


def language_of(request: HttpRequest, known: str = "") -> str:
    """The language of a page: what the visitor chose (`lang` in the address or the form), what is `known` of the
    person, what the browser asks for, or the workspace's first."""
    offered = site().config.languages
    chosen = request.POST.get("lang") or request.GET.get("lang") or ""
    if chosen in offered:
        return chosen
    if known:
        base = known.partition("-")[0]
        for each in offered:
            if each == known or each.partition("-")[0] == base:
                return each
    return wished(request.headers.get("Accept-Language", ""), offered) or site().config.default_language


def address(path: str, **query: str) -> str:
    """The address of one of our pages as links and forms carry it, from the root of the host: /news/signup/?lang=es."""
    return f"{site().prefix}{path}{'?' + urlencode(query) if query else ''}"


def page(
    request: HttpRequest,
    template: str,
    *,
    language: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HttpResponse:
    """A page in one language. Its template extends base.html and sees, beside its own context:

    `words("signup.heading", title=…)`; `url("/signup/")`, which keeps the language; `text(list.name)`, a text of the
    workspace in this language; `title`, `language`, `languages`, `here` (this page's path without a query).
    """
    here = site()
    words = words_for(language)
    path = _own_path(request)
    body = here.pages.get_template(template).render(
        **context,
        words=words,
        language=language,
        direction=direction(words.language),
        languages=[*here.names.items()],
        url=lambda path, **query: address(path, **{"lang": language, **query}),
        in_language=lambda each: address(path, lang=each),
        plain_url=address,
        text=lambda text: here.text(text, language),
        title=here.text(here.config.title, language),
        tagline=here.text(here.config.tagline, language),
        postal_address=here.text(here.config.postal_address, language),
        site=here,
        here=path,
    )
    response = HttpResponse(body, status=status, headers=dict(headers or {}))
    response.headers["Content-Language"] = words.language
    response.headers.setdefault("Cache-Control", NO_STORE)
    return response


def _own_path(request: HttpRequest) -> str:
    """The path that was asked for, as a link may have it: a browser takes `//name/` and `/\\name/` for another host's
    page, and a decoded `?` for the beginning of a query."""
    return "/" + quote(request.path_info.lstrip("/\\"))


def message(
    request: HttpRequest, *, language: str, heading: str, text: str | Markup, status: int = 200, **context: Any
) -> HttpResponse:
    """A page that says one thing; `links` are pairs of an address and its words."""
    return page(
        request,
        "message.html",
        language=language,
        status=status,
        heading=heading,
        message=text,
        **{"links": (), **context},
    )


def dead_link(request: HttpRequest) -> HttpResponse:
    """What a forged, cut or foreign link gets: the same for all of them, 404."""
    language = language_of(request)
    words = words_for(language)
    links = [(address("/signup/", lang=language), words("common.to_signup"))]
    return message(
        request,
        language=language,
        heading=words("common.dead_link"),
        text=words("common.dead_link_text"),
        status=404,
        links=links,
    )
