"""`/p/<token>`: what a link in a mail opens. Lists, language, a pause, consent to be counted, and no more than that.

The page shows neither address nor name, since the mail may have been forwarded. It takes a person off a list at once;
to put them on one, a mail to their own mailbox is asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as time_of_day

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_http_methods

from newsletter.content.dates import MONTHS
from newsletter.content.lists import List, covers
from newsletter.moments import instant
from newsletter.store import wishes
from newsletter.store.models import Subscriber, Suppression
from newsletter.store.preferences import HOW, Answer, Changed, change, states, subscriber_of, zone_of
from newsletter.web.door import NETWORK
from newsletter.web.pages import address, dead_link, language_of, message, page
from newsletter.web.site import site
from newsletter.web.words import Words, words_for

BREAKS = (14, 30, 90)  # days that can be chosen without naming a day
LONGEST = 365  # days


@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest, token: str) -> HttpResponse:
    """The page of a mail's link, and what it changes."""
    person = _person(token)
    return dead_link(request) if person is None else show_preferences(request, person, base=f"/p/{token}")


def show_preferences(request: HttpRequest, person: Subscriber, *, base: str, home: str = "") -> HttpResponse:
    """The page, and what it changes: everything in one form, or nothing where something in it is wrong.

    `base` is the page's own path, and `home` the one that it was opened from, for who came by a fresh link.
    """
    effective = edition_of(person)
    language = language_of(request, effective)
    words = words_for(language)
    stand = states(person)
    if request.method != "POST":
        return _show(request, person, stand, _fresh(person, stand), language, base=base, home=home)
    form = _read(request, person, stand, words)
    if form.wrong:
        return _show(request, person, stand, form, language, base=base, home=home)
    agreement = "preferences.tracking_text"
    changed = change(
        person,
        tick={each.id for each in _offered(stand) if each.id in form.ticked - form.seen},
        clear=form.seen - form.ticked,
        language=person.language if form.language == effective else form.language,
        paused_until=form.paused_until,
        tracking=Answer(
            agreed=form.tracking,
            text=words(agreement),
            text_version=words.version(agreement),
            language=words.language,
        ),
        network=request.META[NETWORK],
    )
    # The mail to confirm comes after: what was changed is kept, whatever becomes of it.
    asked = not (changed and changed.wanted) or _ask(
        request, person, form.language, "signup", lists=changed.wanted, shown_in=language
    )
    after = Subscriber.objects.filter(pk=person.pk).first()
    if changed is None or after is None:  # erased at this moment
        return dead_link(request)
    if form.language != effective:
        language = form.language
    notes = _notes(changed, words_for(language), language, asked=asked)
    stand = states(after)
    return _show(request, after, stand, _fresh(after, stand), language, base=base, home=home, notes=notes)


@require_http_methods(["GET", "HEAD", "POST"])
def send_link(request: HttpRequest, token: str) -> HttpResponse:
    """Asks for a fresh link, by a mail to the address on record, whoever holds this one. To look at it, as the links to
    other languages do, shows the preferences."""
    person = _person(token)
    if person is None:
        return dead_link(request)
    if request.method != "POST":
        return show_preferences(request, person, base=f"/p/{token}")
    language = language_of(request, edition_of(person))
    words = words_for(language)
    links = [(address(f"/p/{token}", lang=language), words("preferences.back"))]
    if not _ask(request, person, language, "link"):
        return too_much(request, language, links=links)
    heading, text = words("preferences.link_sent"), words("preferences.link_sent_text")
    return message(request, language=language, heading=heading, text=text, links=links)


def too_much(request: HttpRequest, language: str, **context: object) -> HttpResponse:
    """More is asked for than is answered at the moment: nothing was kept, and when to try again."""
    words = words_for(language)
    seconds = wishes.until_calm(site().config, request.META[NETWORK], time.time())
    text = words("preferences.link_shut_text", minutes=-(-seconds // 60))
    return message(
        request,
        language=language,
        heading=words("preferences.link_shut"),
        text=text,
        status=429,
        headers={"Retry-After": str(seconds)},
        **context,
    )


def _person(token: str) -> Subscriber | None:
    """Whom a link belongs to. Nothing tells a forged link from one whose person was erased."""
    delivery = site().keyring.read(token, "preferences")
    return None if delivery is None else subscriber_of(delivery)


def edition_of(person: Subscriber) -> str:
    """The language of the workspace in which a person gets their mail (as `mailings.edition_sql` has it)."""
    offered = site().config.languages
    return next((each for each in offered if covers(each, person.language)), site().config.default_language)


def _ask(
    request: HttpRequest,
    person: Subscriber,
    language: str,
    kind: wishes.Kind,
    *,
    lists: Sequence[str] = (),
    shown_in: str = "",
) -> bool:
    """Has a mail sent to the person's own mailbox, in this language; False when too much is asked for at the moment.

    `shown_in` is the language of the page on which lists were ticked: of its words, not of the mails that are wanted.
    """
    words = words_for(shown_in or language)
    text = "preferences.lists_hint" if lists else ""
    asked = wishes.ask(
        site().config,
        kind=kind,
        address=person.address,
        language=language,
        how=HOW,
        network=request.META[NETWORK],
        lists=lists,
        text=words(text) if text else "",
        text_version=words.version(text) if text else "",
        text_language=words.language if text else "",
        subscriber=person.pk,
    )
    return asked.pressure != "shut"


# --- the form ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What the form holds, as it is stored or as it was sent, and what is wrong with it by field."""

    ticked: frozenset[str]  # lists
    seen: frozenset[str]  # those that were ticked when the page was made
    language: str
    pause: str  # none, a number of days, until
    day: str  # of "until", as the field has it
    paused_until: float | None
    tracking: bool
    wrong: Mapping[str, str] = field(default_factory=dict)


def _fresh(person: Subscriber, stand: Mapping[str, str]) -> _Form:
    on = frozenset(name for name, state in stand.items() if state == "subscribed")
    until = person.paused_until if _paused(person) else None
    day = "" if until is None else datetime.fromtimestamp(until, zone_of(person)).date().isoformat()
    return _Form(
        ticked=on,
        seen=on,
        language=edition_of(person),
        pause="until" if day else "none",
        day=day,
        paused_until=until,
        tracking=bool(person.tracking),
    )


def _read(request: HttpRequest, person: Subscriber, stand: Mapping[str, str], words: Words) -> _Form:
    now = _fresh(person, stand)
    today = datetime.now(zone_of(person)).date()
    offered = {each.id for each in _offered(stand)}
    sent = request.POST
    # What was ticked when the page was made, so that a page left open does not take back what came since.
    seen = now.ticked if "seen" not in sent else frozenset(sent["seen"].split(",")) & offered
    wrong: dict[str, str] = {}
    language = sent.get("language", now.language)
    if language not in site().config.languages:
        wrong["language"] = words("preferences.language_unknown")
        language = now.language
    pause, day = sent.get("pause", now.pause), sent.get("day", "").strip()[:40]
    if pause == "none" and day and not now.day:
        pause = "until"  # typed a day, and did not see that it has a button
    until = None
    if pause == "until" and day and day == now.day:
        until = now.paused_until  # as it stands, to the second
    elif pause == "until":
        first, last = _span(today)
        chosen = _date(day)
        if chosen is None or not first <= chosen <= last:
            key = "pause_day_wrong" if day else "pause_day_missing"
            wrong["day"] = words(f"preferences.{key}", first=in_words(first, words), last=in_words(last, words))
        else:
            until = _start(chosen, zone_of(person))
    elif pause in {str(days) for days in BREAKS}:
        until = _start(today + timedelta(days=int(pause)), zone_of(person))
    elif pause != "none":
        wrong["pause"] = words("preferences.pause_unknown")
    return _Form(
        ticked=frozenset(sent.getlist("list")) & offered,
        seen=seen,
        language=language,
        pause=pause,
        day=day,
        paused_until=until,
        tracking=sent.get("tracking") == "yes",
        wrong=wrong,
    )


_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _date(text: str) -> date | None:
    """The day in a date field's own form (HTML, §2.3.5.2 "valid date string"), None for anything else."""
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None


def _span(today: date) -> tuple[date, date]:
    """The first and the last day that can be chosen."""
    return today + timedelta(days=1), today + timedelta(days=LONGEST)


def _start(day: date, zone: tzinfo) -> float:
    return instant(datetime.combine(day, time_of_day()), zone).timestamp()


def _paused(person: Subscriber) -> bool:
    return (person.paused_until or 0.0) > datetime.now(UTC).timestamp()


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Choice:
    id: str
    name: str
    ticked: bool
    hint: str


def _offered(stand: Mapping[str, str]) -> list[List]:
    """The lists on the page: those that anybody can join, and those that this person is on or has just left."""
    own = {name for name, state in stand.items() if state in ("subscribed", "left")}
    return [each for each in site().lists.lists.values() if not each.private or each.id in own]


def _show(
    request: HttpRequest,
    person: Subscriber,
    stand: Mapping[str, str],
    form: _Form,
    language: str,
    *,
    base: str,
    home: str,
    notes: Sequence[str] = (),
) -> HttpResponse:
    here = site()
    words = words_for(language)
    zone = zone_of(person)
    today = datetime.now(zone).date()
    first, last = _span(today)
    paused = _paused(person)
    days = [(str(each), _until(today + timedelta(days=each), words)) for each in BREAKS]
    choices = [
        _Choice(
            id=each.id,
            name=here.text(each.name, language),
            ticked=each.id in form.ticked,
            hint=_hint(each, stand.get(each.id, ""), words, here.text(each.description, language)),
        )
        for each in _offered(stand)
    ]
    held = Suppression.objects.filter(pk=bytes(person.address_key)).exists()
    contact = here.config.sender.reply_to or here.config.sender.address
    where = "" if zone is UTC else "_home"
    return page(
        request,
        "preferences.html",
        language=language,
        status=422 if form.wrong else 200,
        base=base,
        home=home,
        notes=notes,
        held=words("preferences.held", address=contact) if held else "",
        wrong={"language": "", "pause": "", "day": "", **form.wrong},
        problems=[*form.wrong.items()],
        seen=",".join(sorted(form.seen)),
        choices=choices,
        chosen_language=form.language,
        pauses=[
            ("none", words("preferences.pause_end" if paused else "preferences.pause_none")),
            *days,
            ("until", words("preferences.pause_until")),
        ],
        pause=form.pause,
        day=form.day if _date(form.day) else "",
        first=first.isoformat(),
        last=last.isoformat(),
        day_hint=words(f"preferences.pause_day_hint{where}", first=in_words(first, words), last=in_words(last, words)),
        tracking=form.tracking,
    )


def _hint(list: List, state: str, words: Words, description: str) -> str:
    if state == "left":
        more = words("preferences.list_left")
    elif state == "unconfirmed":
        more = words("preferences.list_waiting")
    else:
        more = words("preferences.list_closed") if list.private else ""
    return f"{description} {more}".strip()


def _until(day: date, words: Words) -> str:
    return words("preferences.pause_days", day=in_words(day, words))


def in_words(day: date, words: Words) -> str:
    """A day inside a sentence: "5 December 2026"."""
    months = MONTHS.get(words.language, MONTHS["en"])
    return words("preferences.day", day=day.day, month=months[day.month - 1], year=day.year)


def _notes(changed: Changed, words: Words, language: str, *, asked: bool) -> list[str]:
    def named(lists: Sequence[str]) -> str:
        known = site().lists.lists
        return ", ".join(site().text(known[name].name, language) if name in known else name for name in lists)

    notes = [words("preferences.saved")]
    if changed.left:
        notes.append(words("preferences.saved_left", lists=named(changed.left)))
    if changed.taken_back:
        notes.append(words("preferences.saved_back", lists=named(changed.taken_back)))
    if changed.wanted:
        notes.append(words("preferences.saved_wanted" if asked else "preferences.shut", lists=named(changed.wanted)))
    return notes


urls: list[URLPattern] = [path("p/<str:token>", preferences), path("p/<str:token>/link", send_link)]
