"""`/m/<token>`: name, address, data and erasure, for half an hour after the link was mailed; `/a/<token>`: the new
address confirmed from the new mailbox; `/me/`: a fresh link is asked for.

A link of this kind proves that its holder reads the mailbox now. It belongs to the address, not to the person: once the
address was changed, links to the old one open nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_http_methods, require_safe

from newsletter.errors import AddressError, InputError, NotFound
from newsletter.store import wishes
from newsletter.store.cells import LONGEST_NAME
from newsletter.store.dossier import dossier, profile
from newsletter.store.models import Subscriber, Wish
from newsletter.store.moving import move
from newsletter.store.pace import way_names
from newsletter.store.preferences import rename
from newsletter.store.subscribers import address_key, clean_file, clean_later, erase
from newsletter.web.door import NETWORK
from newsletter.web.pages import NO_STORE, address, dead_link, language_of, message, page
from newsletter.web.preferences import show_preferences, too_much
from newsletter.web.proof import challenge, proven
from newsletter.web.signup import FASTEST, LONGEST_ADDRESS, SLOWEST, made_at, script_version
from newsletter.web.site import site
from newsletter.web.words import words_for

log = logging.getLogger("newsletter.web")

HOW = "manage"  # in wishes

Page = Callable[[HttpRequest, Wish, Subscriber, str], HttpResponse]


def _opened(request: HttpRequest, token: str, show: Page) -> HttpResponse:
    """What a fresh link opens; a page that offers another one where it is too old; a dead link in any other case."""
    wish = wishes.read(site().keyring, token, "manage")
    if wish is None or wish.mailed_at is None or wish.state == "dropped":
        return dead_link(request)
    person = Subscriber.objects.filter(address_key=bytes(wish.address_key)).first()
    if person is None:
        return dead_link(request)
    language = language_of(request, wish.language)
    if time.time() > wishes.expires_at(wish):
        words = words_for(language)
        links = [(address("/me/", lang=language), words("manage.fresh"))]
        heading, text = words("manage.expired"), words("manage.expired_text")
        return message(request, language=language, heading=heading, text=text, status=410, links=links)
    return show(request, wish, person, language)


@require_safe
def manage(request: HttpRequest, token: str) -> HttpResponse:
    return _opened(request, token, _show)


def _show(
    request: HttpRequest,
    wish: Wish,
    person: Subscriber,
    language: str,
    *,
    note: str = "",
    name: str | None = None,
    new_address: str = "",
    wrong: dict[str, str] | None = None,
) -> HttpResponse:
    token = site().keyring.token("manage", wish.pk)
    return page(
        request,
        "manage.html",
        language=language,
        status=422 if wrong else 200,
        base=f"/m/{token}",
        person=person,
        until=f"{datetime.fromtimestamp(wishes.expires_at(wish), UTC):%H:%M}",
        note=note,
        name=person.name if name is None else name,
        new_address=new_address,
        longest=LONGEST_NAME,
        wrong={"name": "", "new_address": "", **(wrong or {})},
        problems=[*(wrong or {}).items()],
    )


@require_http_methods(["GET", "HEAD", "POST"])
def name(request: HttpRequest, token: str) -> HttpResponse:
    """Another name, or none. To look at it, as the links to other languages do, shows the page."""

    def show(request: HttpRequest, wish: Wish, person: Subscriber, language: str) -> HttpResponse:
        if request.method != "POST":
            return _show(request, wish, person, language)
        words, typed = words_for(language), request.POST.get("name", "")
        try:
            renamed = rename(person, typed)
        except InputError:
            wrong = {"name": words("manage.name_wrong", most=LONGEST_NAME)}
            return _show(request, wish, person, language, name=typed[:1000], wrong=wrong)
        if renamed is None:
            return dead_link(request)
        return _show(request, wish, renamed, language, note=words("manage.name_saved"))

    return _opened(request, token, show)


@require_http_methods(["GET", "HEAD", "POST"])
def new_address(request: HttpRequest, token: str) -> HttpResponse:
    """Asks for another address. The answer is the same whether it belongs to a subscriber or not: that is said to who
    proves to read the new mailbox (`move_here`)."""

    def show(request: HttpRequest, wish: Wish, person: Subscriber, language: str) -> HttpResponse:
        if request.method != "POST":
            return _show(request, wish, person, language)
        words, typed = words_for(language), request.POST.get("new_address", "").strip()
        problem = ""
        try:
            if address_key(site().config, typed) == bytes(person.address_key):
                problem = "same"
            else:
                asked = wishes.ask(
                    site().config,
                    kind="address",
                    address=typed,
                    language=language,
                    how=HOW,
                    network=request.META[NETWORK],
                    subscriber=person.pk,
                )
                problem = "shut" if asked.pressure == "shut" else ""
        except AddressError:
            problem = "wrong"
        if problem:
            wrong = {"new_address": words(f"manage.new_address_{problem}")}
            return _show(request, wish, person, language, new_address=typed[:320], wrong=wrong)
        return _show(request, wish, person, language, note=words("manage.new_address_sent", address=typed))

    return _opened(request, token, show)


@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest, token: str) -> HttpResponse:
    """The same page as a mail's link opens, for who came here from the archive and has no mail at hand."""

    def show(request: HttpRequest, wish: Wish, person: Subscriber, language: str) -> HttpResponse:
        return show_preferences(request, person, base=f"/m/{token}/preferences", home=f"/m/{token}")

    return _opened(request, token, show)


@require_safe
def my_data(request: HttpRequest, token: str) -> HttpResponse:
    """Everything known of the person, as a file to keep."""

    def show(request: HttpRequest, wish: Wish, person: Subscriber, language: str) -> HttpResponse:
        here = site()
        known = {
            "newsletter": here.text(here.config.title, language),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **dossier(person.address, profile(here.config, person.address), way_names()),
        }
        return HttpResponse(
            json.dumps(known, ensure_ascii=False, indent=2) + "\n",
            content_type="application/json; charset=utf-8",
            headers={
                "Content-Disposition": 'attachment; filename="my-data.json"',
                "Cache-Control": NO_STORE,
                "X-Robots-Tag": "noindex",
            },
        )

    return _opened(request, token, show)


@require_http_methods(["GET", "HEAD", "POST"])
def erase_me(request: HttpRequest, token: str) -> HttpResponse:
    """What would go and what would stay; and then it goes."""

    def show(request: HttpRequest, wish: Wish, person: Subscriber, language: str) -> HttpResponse:
        words = words_for(language)
        if request.method != "POST":
            return page(request, "erase.html", language=language, base=f"/m/{token}")
        _erase(person)
        heading, text = words("manage.erased"), words("manage.erased_text")
        return message(request, language=language, heading=heading, text=text)

    return _opened(request, token, show)


def _erase(person: Subscriber) -> None:
    with suppress(NotFound):  # at the same moment by another click
        erased = erase(site().config, person.address)
        left = "locked"
        with suppress(OperationalError):  # erased they are; only old space of the file was not written over
            left = clean_file(site().config, erased)
        if left == "large":
            log.warning("after an erasure, unused parts of the database may still hold an address: it is over 1 GB")
        elif left != "clean":
            clean_later()


# --- the new mailbox --------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def move_here(request: HttpRequest, token: str) -> HttpResponse:
    """A new address is confirmed by who reads its mailbox."""
    wish = wishes.read(site().keyring, token, "address")
    if wish is None or wish.mailed_at is None or wish.state == "dropped":
        return dead_link(request)
    language = language_of(request, wish.language)
    words = words_for(language)
    if request.method != "POST":
        if wish.state == "granted":
            outcome = "already"
        elif time.time() > wishes.expires_at(wish):
            outcome = "expired"
        else:
            return page(request, "move.html", language=language, new_address=wish.address)
    else:
        outcome = move(
            site().config,
            wish,
            text=words("manage.move_text"),
            text_version=words.version("manage.move_text"),
            language=words.language,
            network=request.META[NETWORK],
        )
    if outcome == "gone":
        return dead_link(request)
    contact = site().config.sender.reply_to or site().config.sender.address
    key, status = {
        "moved": ("moved", 200),
        "already": ("moved_already", 200),
        "expired": ("move_expired", 410),
        "taken": ("move_taken", 409),
        "withheld": ("move_withheld", 409),
    }[outcome]
    return message(
        request,
        language=language,
        heading=words(f"manage.{key}"),
        text=words(f"manage.{key}_text", address=contact),
        status=status,
        links=[(address("/me/", lang=language), words("manage.fresh"))] if outcome == "expired" else (),
    )


# --- a fresh link -----------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def me(request: HttpRequest) -> HttpResponse:
    """Asks for a fresh link, by a mail to the address that is typed. The answer is the same whoever has that address,
    and so is the work: one wish is written."""
    language = language_of(request)
    if request.method != "POST":
        return _ask_for_address(request, language)
    now, given = time.time(), request.POST
    if given.get("website"):  # nobody sees that field
        return _link_sent(request, language)
    typed = given.get("email", "").strip()
    made = made_at(request)
    try:
        address_key(site().config, typed)
    except AddressError:
        return _ask_for_address(request, language, typed=typed, made=made, wrong=True)
    if made is None or not FASTEST <= now - made <= SLOWEST:
        return _ask_for_address(request, language, typed=typed, made=made, again=True)
    asked = wishes.ask(
        site().config,
        kind="link",
        address=typed,
        language=language,
        how="page",
        network=request.META[NETWORK],
        proof=proven(site().keyring, given.get("proof", "")),
        now=now,
    )
    return too_much(request, language) if asked.pressure == "shut" else _link_sent(request, language)


def _link_sent(request: HttpRequest, language: str) -> HttpResponse:
    words = words_for(language)
    heading, text = words("preferences.me_sent"), words("preferences.me_sent_text")
    return message(request, language=language, heading=heading, text=text)


def _ask_for_address(
    request: HttpRequest,
    language: str,
    *,
    typed: str = "",
    made: int | None = None,
    again: bool = False,
    wrong: bool = False,
) -> HttpResponse:
    """The page. It keeps the time at which it was first made, so that a second click is no faster."""
    now = time.time()
    if made is None or not 0 <= now - made <= SLOWEST:
        made = int(now - (FASTEST - 1 if again else 0))  # where nothing is left to type, a second is enough
    calm = wishes.pressure(site().config, request.META[NETWORK], now) == "calm"
    return page(
        request,
        "me.html",
        language=language,
        status=422 if wrong else 200,
        typed=typed[: LONGEST_ADDRESS + 50],
        wrong=words_for(language)("preferences.me_address_wrong") if wrong else "",
        again=again,
        time=site().keyring.token("form", made),
        challenge="" if calm else challenge(site().keyring, now),
        script=script_version(),
    )


urls: list[URLPattern] = [
    path("m/<str:token>", manage),
    path("m/<str:token>/name", name),
    path("m/<str:token>/address", new_address),
    path("m/<str:token>/preferences", preferences),
    path("m/<str:token>/data", my_data),
    path("m/<str:token>/erase", erase_me),
    path("a/<str:token>", move_here),
    path("me/", me),
]
