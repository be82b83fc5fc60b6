"""Leaving: /u/<token>, the address behind the footer link and behind the mailbox provider's own button (RFC 8058).

GET and HEAD show a page and change nothing. A POST leaves, whatever it holds: that request is made by nobody by
accident, and one refused for its form would become a complaint. Only our own page's button gets a page for an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import HttpRequest, HttpResponse, QueryDict, UnreadablePostError
from django.urls import URLPattern, path

from newsletter.store import leaving
from newsletter.web.pages import NO_STORE, dead_link, language_of, message, page
from newsletter.web.site import site
from newsletter.web.words import words_for

UNSEEN = {"X-Robots-Tag": "noindex", "Cache-Control": NO_STORE}
LEFT = "You have left. Nothing more is needed.\n"  # to a mailbox provider's program; few ever show it
_FORM = "application/x-www-form-urlencoded"


def leave(request: HttpRequest, token: str) -> HttpResponse:
    """The page, and the button on it; and the one-click request of RFC 8058 §3.2, answered without a redirect."""
    return _answer(request, token, _leave)


def undo(request: HttpRequest, token: str) -> HttpResponse:
    """Takes a leaving back. Without the button it is the page that has it."""
    return _answer(request, token, _undo)


def reason(request: HttpRequest, token: str) -> HttpResponse:
    """Keeps why somebody left. Without the button it is the page that has it."""
    return _answer(request, token, _reason)


def _answer(request: HttpRequest, token: str, act: Callable[[HttpRequest, leaving.Link], str]) -> HttpResponse:
    if request.method not in ("GET", "HEAD", "POST"):
        return _not_allowed(request)
    if request.method == "POST":
        # Before anything looks for a field: nothing that a body holds may keep anybody from leaving.
        request.POST = _form(request)  # type: ignore[assignment]  # the stubs have a private type for it
    link = leaving.find(site().keyring, token)
    if link is None:
        return dead_link(request)
    event = act(request, link) if request.method == "POST" else ""
    if event == _ONE_CLICK:
        return HttpResponse(LEFT, content_type="text/plain; charset=utf-8", headers=UNSEEN)
    return _page(request, token, link, event)


_ONE_CLICK = "one-click"


def _leave(request: HttpRequest, link: leaving.Link) -> str:
    wish = request.POST.get("leave")
    if wish not in ("this", "all"):
        leaving.leave(link, how="one-click")
        return _ONE_CLICK
    leaving.leave(link, how="page", everything=wish == "all", language=language_of(request))
    return "left"


def _undo(request: HttpRequest, link: leaving.Link) -> str:
    return "back" if leaving.undo(link, language=language_of(request)) else "late"


def _reason(request: HttpRequest, link: leaving.Link) -> str:
    words = request.POST.get("words", "")
    choice = request.POST.get("reason") or ("other" if words.strip() else "")
    return "thanks" if leaving.reason(link, choice, words, language=language_of(request)) else ""


def _form(request: HttpRequest) -> QueryDict:
    """The fields of a form of ours. Whatever else was sent counts as no field at all."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != _FORM or charset.lower() != "utf-8":
        return QueryDict()
    try:
        return QueryDict(request.body, encoding="utf-8")
    except (BadRequest, SuspiciousOperation, UnreadablePostError):
        return QueryDict()


def _page(request: HttpRequest, token: str, link: leaving.Link, event: str) -> HttpResponse:
    """What there is to say and to do now; `event` is what a button has just done."""
    place = leaving.place(link)
    language = language_of(request, place.language if place else "")
    words = words_for(language)
    if place is None:
        key = "test" if link.test else "nobody"
        heading, text = words(f"leaving.{key}"), words(f"leaving.{key}_text")
        return message(request, language=language, heading=heading, text=text, headers=UNSEEN)
    if event == "late" and not place.gone:
        event = "back"  # the button was pressed twice
    if event in ("left", "thanks") and not place.gone and not place.left:
        event = ""
    lists = site().lists.lists
    names = {each: site().text(lists[each].name, language) if each in lists else each for each in _all(place)}
    return page(
        request,
        "leaving.html",
        language=language,
        headers=UNSEEN,
        place=place,
        event=event,
        home=f"/u/{token}",
        # The mail that this link is from has that one, too.
        preferences=f"/p/{site().keyring.token('preferences', link.delivery)}",
        name=names.get(place.list, ""),
        others=[names[each] for each in place.others],
        left=[names[each] for each in place.left],
        on=[names[each] for each in place.on],
        reasons=leaving.REASONS,
        longest=leaving.LONGEST_WORDS,
    )


def _all(place: leaving.Place) -> set[str]:
    return {*place.on, *place.left, place.list} - {""}


def _not_allowed(request: HttpRequest) -> HttpResponse:
    language = language_of(request)
    words = words_for(language)
    heading, text = words("common.not_allowed"), words("common.not_allowed_text")
    headers = {**UNSEEN, "Allow": "GET, HEAD, POST"}
    return message(request, language=language, heading=heading, text=text, status=405, headers=headers)


urls: list[URLPattern] = [
    path("u/<str:token>", leave),
    path("u/<str:token>/undo", undo),
    path("u/<str:token>/reason", reason),
]
