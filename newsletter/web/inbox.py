"""The local inbox: what the outbox provider wrote, shown as a mailbox on this machine, to nobody else.

It is there only when `newsletter serve --inbox` or `newsletter demo` says so, which listen at 127.0.0.1. It answers
requests that name this machine as their host (a page elsewhere whose name leads here does not), and none that came
through a proxy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe

from newsletter.web import maildir
from newsletter.web.door import POLICY
from newsletter.web.maildir import Mail, Maildir, read_head, read_mail
from newsletter.web.pages import NO_STORE, address, dead_link, language_of, page
from newsletter.web.site import HERE, site

PER_PAGE = 50
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")  # of the others a browser may run something
_SANDBOX = "allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation"
_STYLE = hashlib.sha256((HERE / "static" / "inbox.css").read_bytes()).hexdigest()[:12]
_UNSEEN = {"X-Robots-Tag": "noindex", "Cache-Control": NO_STORE}

View = Callable[..., HttpResponse]


def _local(view: View) -> View:
    """A page of the inbox: 404 for whoever is not on this machine."""

    @wraps(view)
    def answer(request: HttpRequest, **values: str) -> HttpResponse:
        through_a_proxy = any(name == "HTTP_FORWARDED" or name.startswith("HTTP_X_FORWARDED") for name in request.META)
        if not site().inbox or through_a_proxy or not _HOST.fullmatch(request.META.get("HTTP_HOST", "")):
            return dead_link(request)
        response = view(request, **values)
        for name, value in _UNSEEN.items():
            response.headers[name] = value
        return response

    return require_safe(answer)


@_local
def listing(request: HttpRequest) -> HttpResponse:
    """The messages, newest first, so many on a page."""
    wanted = request.GET.get("page", "1")
    number = int(wanted) if re.fullmatch("[1-9][0-9]{0,5}", wanted) else 1
    entries, count = _box().newest((number - 1) * PER_PAGE, PER_PAGE)
    if not entries and number > 1:
        return dead_link(request)
    return page(
        request,
        "inbox.html",
        language=language_of(request),
        style=_STYLE,
        mails=[read_head(entry) for entry in entries],
        count=count,
        number=number,
        pages=-(-count // PER_PAGE),
        outbox=site().config.shown(_folders()[0]),
    )


@_local
def message(request: HttpRequest, id: str) -> HttpResponse:
    """One message: its HTML in a frame that can run nothing, its text, its headers."""
    mail = _mail(id)
    if mail is None:
        return dead_link(request)
    response = page(
        request,
        "inbox_message.html",
        language=language_of(request),
        style=_STYLE,
        mail=mail,
        sandbox=_SANDBOX,
        pieces=_linked(mail.text, request),
    )
    response.headers["Content-Security-Policy"] = f"{POLICY}; frame-src 'self'"
    return response


@_local
def html(request: HttpRequest, id: str) -> HttpResponse:
    """The HTML of a message, for the frame: pictures and style of its own, no script, no form, nothing from elsewhere.

    What it says of base_url leads to this server, so that its links can be tried.
    """
    mail = _mail(id)
    if mail is None or not mail.html:
        return dead_link(request)
    here = f"{request.scheme}://{request.META['HTTP_HOST']}"
    text = _at_home(mail.html, request)
    for part in mail.parts:
        if part.content_id and part.media_type in _PICTURES:
            text = text.replace(f"cid:{part.content_id}", address(f"/inbox/{id}/part/{part.number}"))
    response = HttpResponse(_opening_outside(text).encode("utf-8", "replace"), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; img-src 'self' {here} data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'self'; sandbox {_SANDBOX}"
    )
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    return response


@_local
def part(request: HttpRequest, id: str, number: str) -> HttpResponse:
    """Another part of a message: a picture to be shown, anything else to be kept."""
    mail = _mail(id)
    found = next((each for each in mail.parts if str(each.number) == number), None) if mail else None
    if found is None:
        return dead_link(request)
    if found.media_type in _PICTURES:
        return HttpResponse(found.content, content_type=found.media_type)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", found.name)
    response = HttpResponse(found.content, content_type="application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@_local
def source(request: HttpRequest, id: str) -> HttpResponse:
    """The very octets of a message."""
    file = _box().find(id)
    try:
        content = file.read_bytes() if file else None
    except OSError:
        content = None
    if content is None:
        return dead_link(request)
    return HttpResponse(content, content_type="text/plain; charset=utf-8")


def _folders() -> tuple[Path, ...]:
    config = site().config
    ways = tuple(way.settings for way in (*config.ways, *config.spare) if isinstance(way.settings, Path))
    return ways or (config.outbox,)


def _box() -> Maildir:
    return maildir.maildir(_folders())


def _mail(id: str) -> Mail | None:
    file = _box().find(id)
    try:
        return read_mail(file) if file else None
    except OSError:  # gone meanwhile, or not ours to read
        return None


def _at_home(text: str, request: HttpRequest) -> str:
    """The text with this server's address in place of base_url."""
    here = f"{request.scheme}://{request.META['HTTP_HOST']}{site().prefix}"
    return re.sub(rf"{re.escape(site().config.base_url)}(?![\w.:@-])", lambda _: here, text)


def _linked(text: str, request: HttpRequest) -> list[tuple[str, str]]:
    """The text in pieces, each with the address that it is a link to, or ""."""
    pieces: list[tuple[str, str]] = []
    end = 0
    text = _at_home(text, request)
    for found in re.finditer(r"https?://[^\s<>\"']+", text):
        pieces += [(text[end : found.start()], ""), (found[0], found[0])]
        end = found.end()
    return [*pieces, (text[end:], "")]


def _opening_outside(html: str) -> str:
    """The page with links that leave the frame: what they lead to does not show itself in one."""
    base = '<base target="_top">'
    head = re.search(r"<head(?:\s[^>]{0,1000})?>", html, re.IGNORECASE)
    if head:
        return f"{html[: head.end()]}{base}{html[head.end() :]}"
    kind = re.match(r"\s*<!doctype[^>]{0,1000}>", html, re.IGNORECASE)
    end = kind.end() if kind else 0
    return f"{html[:end]}{base}{html[end:]}"


urls: list[URLPattern] = [
    path("inbox/", listing),
    path("inbox/<str:id>/", message),
    path("inbox/<str:id>/html", html),
    path("inbox/<str:id>/source", source),
    path("inbox/<str:id>/part/<str:number>", part),
]
