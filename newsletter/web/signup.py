"""Signing up, and confirming it by the link of the mail that answers.

The answer to a sign-up is the same whoever the address belongs to, and so is the work: one wish is written
(store/wishes.py), and a mail says the rest. A form without our signed time, from another site say, changes nothing: it
is shown filled in, with one button.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_http_methods
from markupsafe import Markup

from newsletter.content.lists import List
from newsletter.errors import AddressError, InputError
from newsletter.headers import addr_spec
from newsletter.store import wishes
from newsletter.store.subscribers import kept_person
from newsletter.web.door import NETWORK
from newsletter.web.pages import address, dead_link, language_of, message, page
from newsletter.web.proof import challenge, proven
from newsletter.web.site import HERE, site
from newsletter.web.words import Words, words_for

FASTEST = 3.0  # seconds between the page and the answer: nobody fills in a form faster
SLOWEST = 24 * 3600.0  # seconds: whoever comes back to the page later presses once more

LONGEST_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets


@dataclass(frozen=True, kw_only=True)
class Form:
    """A sign-up as it was typed."""

    email: str = ""
    name: str = ""
    lists: tuple[str, ...] = ()  # of those that are offered
    language: str = ""
    elsewhere: bool = False  # it came from a form on another site


# --- signing up -------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def signup(request: HttpRequest) -> HttpResponse:
    """The page to sign up at, and what becomes of its form."""
    language = language_of(request)
    if not site().public_lists:
        links = [(address(f"/archive/{language}/", lang=language), words_for(language)("common.to_archive"))]
        return _say(request, language, "closed", links=links)
    if request.method == "POST":
        return _posted(request, language)
    chosen = _offered([request.GET.get("list", "")])
    return _form(request, language, Form(lists=chosen, language=language))


def _posted(request: HttpRequest, language: str) -> HttpResponse:
    now = time.time()
    given = request.POST
    lists = _offered(given.getlist("list"))
    if given.get("website"):  # nobody sees that field
        return _done(request, language, lists)
    made = made_at(request)
    form = Form(
        # Cut a little above what is refused, so that what is shown again cannot grow without end.
        email=given.get("email", "").strip()[: LONGEST_ADDRESS + 50],
        name=given.get("name", "")[:1000],
        lists=lists,
        language=_language(given.get("language", ""), language),
        elsewhere=made is None or given.get("from") == "form",
    )
    wrong = _wrong(form, words_for(language))
    if made is None:
        wrong.pop("list", None)  # there was nothing to tick
    if wrong:
        return _form(request, language, form, wrong=wrong, made=made)
    consent, version = _consent(language)
    # The words may have changed between the page and its answer: then the new ones have to be seen.
    in_time = made is not None and FASTEST <= now - made <= SLOWEST
    if made is None or not in_time or given.get("words", version) != version:
        return _form(request, language, form, again=True, made=made)
    network = request.META[NETWORK]
    asked = wishes.ask(
        site().config,
        kind="signup",
        address=form.email,
        name=form.name,
        language=form.language,
        lists=form.lists,
        text=consent,
        text_version=version,
        text_language=words_for(language).language,
        how="form" if form.elsewhere else "page",
        network=network,
        proof=proven(site().keyring, given.get("proof", "")),
        now=now,
    )
    if asked.pressure == "shut":
        return _shut(request, language, network, now)
    return _done(request, language, lists)


def made_at(request: HttpRequest) -> int | None:
    """When the form of ours was made that was sent, in Unix seconds; None for a form of another site.

    Anybody can take a signed time from our page into theirs, and have each of their visitors send somebody's address
    from a network of its own. Browsers say where a form came from (Fetch Metadata, Sec-Fetch-Site).
    """
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return None
    return site().keyring.read(request.POST.get("time", ""), "form")


def _wrong(form: Form, words: Words) -> dict[str, str]:
    """What is wrong with a form, by field, in the order of the page."""
    wrong = {}
    try:
        addr_spec(form.email)
    except AddressError:
        wrong["email"] = words("signup.bad_address" if form.email else "signup.no_address")
    try:
        kept_person(form.name)
    except InputError:
        wrong["name"] = words("signup.long_name")
    if not form.lists:
        wrong["list"] = words("signup.no_list")
    return wrong


def _offered(names: Sequence[str]) -> tuple[str, ...]:
    """Which of the lists that are offered were chosen, in the order of lists.yaml; the only one always is."""
    offered = [each.id for each in site().public_lists]
    return tuple(offered) if len(offered) == 1 else tuple(id for id in offered if id in names)


def _language(chosen: str, language: str) -> str:
    return chosen if chosen in site().config.languages else language


def _form(
    request: HttpRequest,
    language: str,
    form: Form,
    *,
    wrong: Mapping[str, str] | None = None,
    again: bool = False,
    made: int | None = None,
) -> HttpResponse:
    """The page, filled in. It keeps the time at which it was first made, so that a second click is no faster."""
    now = time.time()
    if made is None or not 0 <= now - made <= SLOWEST:
        # Where nothing is left to fill in, a second is enough.
        made = int(now - (FASTEST - 1 if again else 0))
    calm = wishes.pressure(site().config, request.META[NETWORK], now) == "calm"
    consent, version = _consent(language)
    return page(
        request,
        "signup.html",
        language=language,
        status=422 if wrong else 200,
        form=form,
        wrong={"email": "", "name": "", "list": "", **(wrong or {})},
        problems=[*(wrong or {}).items()],
        again=again,
        lists=site().public_lists,
        consent=consent,
        version=version,
        time=site().keyring.token("form", made),
        challenge="" if calm else challenge(site().keyring, now),
        script=script_version(),
        request_is_get=request.method != "POST",
    )


def _consent(language: str) -> tuple[str, str]:
    """The sentence of consent of the sign-up page, filled in, and the version of its wording."""
    if len(site().public_lists) == 1:
        return _consent_to(site().public_lists, language)
    words = words_for(language)
    title = site().text(site().config.title, language)
    return words("signup.consent_ticked", title=title), words.version("signup.consent_ticked")


def _consent_to(lists: Sequence[List], language: str) -> tuple[str, str]:
    """The sentence of consent to certain lists, filled in, and the version of its wording."""
    words = words_for(language)
    title = site().text(site().config.title, language)
    return words("signup.consent", lists=_named(lists, language), title=title), words.version("signup.consent")


def _named(lists: Sequence[List], language: str) -> str:
    words = words_for(language)
    return ", ".join(words("signup.quoted", name=site().text(each.name, language)) for each in lists)


def _done(request: HttpRequest, language: str, lists: Sequence[str]) -> HttpResponse:
    """The answer to every sign-up. It may depend on what was asked for, never on who asked."""
    confirmed = any(site().lists.lists[each].double_opt_in for each in lists)
    reply = _with_reply(language, "signup.nothing_write")
    return page(request, "signup_done.html", language=language, confirmed=confirmed, reply=reply)


def _shut(request: HttpRequest, language: str, network: str, now: float) -> HttpResponse:
    words = words_for(language)
    seconds = wishes.until_calm(site().config, network, now)
    minutes = -(-seconds // 60)
    when = words("signup.in_a_minute") if minutes < 2 else words("signup.in_minutes", minutes=minutes)
    text = _with_reply(language, "signup.shut_text", when=when)
    headers = {"Retry-After": str(seconds)}
    return _say(request, language, "shut", text=text, status=429, headers=headers)


def _with_reply(language: str, key: str, **values: str) -> Markup:
    """A text with the address in it that answers go to, as a link."""
    sender = site().config.sender
    link = Markup('<a href="mailto:{0}">{0}</a>').format(sender.reply_to or sender.address)
    return Markup(words_for(language).texts[key]).format(reply=link, **values)  # noqa: S704 - our own words


def _say(
    request: HttpRequest, language: str, key: str, *, text: Markup | None = None, status: int = 200, **context: object
) -> HttpResponse:
    """A page that says one thing."""
    words = words_for(language)
    said = words(f"signup.{key}_text") if text is None else text
    heading = words(f"signup.{key}")
    return message(request, language=language, heading=heading, text=said, status=status, **context)


@cache
def script_version() -> str:
    """What makes the script's address another one when the script is: it is kept by browsers for a year."""
    return hashlib.sha256((HERE / "static" / "proof.js").read_bytes()).hexdigest()[:12]


# --- confirming -------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest, token: str) -> HttpResponse:
    """What was signed up for, with one button; the button puts the person on the lists. A second use finds them in."""
    if site().keyring.read(token, "confirm") is None:
        return dead_link(request)
    wish = wishes.read(site().keyring, token, "confirm")
    language = language_of(request, wish.language if wish else "")
    if wish is None:  # purged after its time, or erased with the person
        return _outcome(request, language, wishes.Granted(outcome="expired"), ())
    lists = [each for each in site().public_lists if each.id in wish.lists]
    if request.method != "POST":
        found = wishes.look(wish, now=time.time())
        if found is None and lists:
            consent, _ = _consent_to(lists, language)
            return page(request, "confirm.html", language=language, lists=lists, consent=consent)
        return _outcome(request, language, found or wishes.Granted(outcome="expired"), lists)
    consent, version = _consent_to(lists, language)
    granted = wishes.grant(
        site().config,
        wish,
        text=consent,
        text_version=version,
        language=words_for(language).language,
        network=request.META[NETWORK],
        lists=[each.id for each in lists],
    )
    return _outcome(request, language, granted, lists)


def _outcome(request: HttpRequest, language: str, granted: wishes.Granted, lists: Sequence[List]) -> HttpResponse:
    if granted.outcome in ("granted", "already"):
        named = _named(lists, language) or site().text(site().config.title, language)
        return page(request, "confirmed.html", language=language, lists=named)
    if granted.outcome == "withheld":
        return _say(request, language, "blocked", text=_with_reply(language, "signup.blocked_text"))
    links = [(address("/signup/", lang=language), words_for(language)("common.to_signup"))]
    return _say(request, language, granted.outcome, links=links, status=410 if granted.outcome == "expired" else 200)


urls: list[URLPattern] = [path("signup/", signup), path("c/<token>", confirm)]
