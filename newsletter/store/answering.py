"""The mails that the pages cause. A page writes down what somebody asked for (`Wish`) and answers everybody alike; here
it is found out whose address that is, the limits are kept, and the mail that differs is put into the ledger.

A wish and its mail change in one transaction, and the mail has the wish's number in its key: whatever crashes, and
however many workers answer, nobody is mailed twice and nothing is forgotten. What cannot be rendered waits.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import QuerySet

from newsletter.config import Config
from newsletter.errors import InputError
from newsletter.links import archive_url, personal_url
from newsletter.store import models
from newsletter.store.consent import LIFTED_BY_OPT_IN
from newsletter.store.desk import Desk, Made, Mail, desk
from newsletter.store.mailings import Letter, post_many
from newsletter.store.models import Allowance, Consent, Subscriber, Subscription, Suppression, Wish
from newsletter.store.published import published
from newsletter.store.wishes import mailbox_key

SIZE = 50  # wishes in one transaction: about 15 ms, since SQLite has one writer for all
DAY = 86_400.0  # seconds
KEPT = 7 * DAY  # for so long a wish may be granted, and it is known why one was dropped
KEPT_GRANTED = 365 * DAY

LIMITS: Mapping[str, tuple[int, int]] = {
    "signup": (1, 3),
    "known": (1, 10**6),
    "link": (3, 10**6),
    "own": (3, 10**6),
    "address": (3, 10**6),
}
"""How many mails of a kind one mailbox gets, whoever asks: with less than a day between two of them, and in all until
one is confirmed. Each has a limit of its own, so that nobody uses up with one what its owner needs of another: `known`
tells that somebody has the newsletter already, `own` is what is asked for with the link of a mail in hand."""

PUT_OFF = 3600.0  # seconds for a wish that cannot be answered by a mistake of ours


# --- answering --------------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What one transaction did."""

    wishes: int  # how many; 0: none is due
    trouble: InputError | None = None  # what is wrong with a template: the wishes that need it wait


def waits(now: float) -> bool:
    """Whether a wish waits for its answer."""
    return _due(now).exists()


def answer(config: Config, *, now: float | None = None, size: int = SIZE) -> Done:
    """Answers the wishes that have waited longest, in one transaction.

    Raises `InputError` when the lists or the templates of the workspace cannot be read; then all go on waiting. Any
    other mistake is one wish's alone, which is put off.
    """
    now = time.time() if now is None else now
    return _by_portions(_due(now), _answer, config, now, size)


def greet(config: Config, *, now: float | None = None, size: int = SIZE) -> Done:
    """Posts the welcomes that are due, in one transaction, and tells former addresses that they are former ones.

    Raises what `answer` raises.
    """
    now = time.time() if now is None else now
    return _by_portions(_welcome_due(now), _greet, config, now, size)


def _due(now: float) -> QuerySet[Wish]:
    return Wish.objects.filter(state="waiting", not_before__lte=now).order_by("not_before", "pk")


def _welcome_due(now: float) -> QuerySet[Wish]:
    return Wish.objects.filter(welcome_due=True, not_before__lte=now).order_by("granted_at", "pk")


def _by_portions(due: QuerySet[Wish], act: Act, config: Config, now: float, size: int) -> Done:
    """One portion; when it fails, one wish alone, which is put off when it fails again: the others must not wait for
    it. Raises what that failed with."""
    if not due.exists():  # asked outside of a transaction, which would be a write to SQLite
        return Done(0)
    here = desk(config)
    try:
        return _with_editions(here, now, lambda made: act(here, made, now, size))
    except (OperationalError, InterfaceError, OSError):  # the database or the disk: of all
        raise
    except Exception:
        if size > 1:
            return _by_portions(due, act, config, now, 1)
        if first := due.first():
            Wish.objects.filter(pk=first.pk).update(not_before=now + PUT_OFF)
        raise


Act = Callable[[Desk, Made, float, int], int]


class _Lacking(Exception):
    """No error: it undoes a transaction, so that what it lacks can be rendered first."""

    def __init__(self, mails: Iterable[Mail]) -> None:
        super().__init__()
        self.mails = tuple(mails)


def _with_editions(desk: Desk, now: float, act: Callable[[Made], int]) -> Done:
    """Calls `act` in a transaction, and again after it said what it lacks: rendering takes some hundredths of a second,
    for which nobody should wait who wants to write."""
    trouble: InputError | None = None
    made: Made = {}
    while True:
        try:
            with transaction.atomic():
                return Done(act(made), trouble)
        except _Lacking as lacking:
            trouble = desk.render(lacking.mails, made, now) or trouble


@dataclass(kw_only=True)
class _Answer:
    """What is to become of a wish."""

    wish: Wish
    reason: str = ""  # why it is dropped
    mail: Mail | None = None
    lists: tuple[str, ...] = ()  # that the mail is about
    at_once: tuple[str, ...] = ()  # lists that the person is subscribed to without a mail that asks
    person: Subscriber | None = None
    rests: float = 0.0  # Unix seconds until which it waits, since its mail cannot be rendered

    @property
    def counts(self) -> str:
        """Which of `LIMITS` its mail counts in."""
        if self.wish.how == "preferences" and self.wish.kind != "address" and self.wish.subscriber_id is not None:
            return "own"
        return "known" if self.mail is not None and self.mail.notice == "known" else str(self.wish.kind)

    @property
    def to(self) -> tuple[str, bytes]:
        """The address of its mail and the key of that: as the subscriber wrote it, where that is known."""
        if self.person and self.wish.kind != "address":
            return self.person.address, bytes(self.person.address_key)
        return self.wish.address, bytes(self.wish.address_key)


def _answer(desk: Desk, made: Made, now: float, size: int) -> int:
    rows = list(_due(now).select_for_update(of=("self",), skip_locked=True)[:size])
    known = _Known.of(rows)
    answers: list[_Answer] = []
    joining = set()
    for wish in rows:
        answer = _decide(wish, known, desk)
        if answer.at_once:
            if answer.wish.address_key in joining:
                continue  # until what the first one changes can be seen: the next transaction
            joining.add(answer.wish.address_key)
        answers.append(answer)
    # Persons are locked before any allowance, as whoever confirms does it.
    _subscribe([answer for answer in answers if answer.at_once], known, desk, now)
    _limit(answers, known, desk, made, now)
    letters = [_letter(answer, made, desk) for answer in answers if answer.mail and not answer.rests]
    post_many(letters, provider=desk.config.route)
    _write(answers, now)
    return len(answers)


@dataclass(kw_only=True)
class _Known:
    """What the database knows of those who asked."""

    people: dict[bytes, Subscriber]  # by address key
    by_id: dict[int, Subscriber]
    suppressed: dict[bytes, str]  # address key → reason
    states: dict[tuple[int, str], str]  # subscriber, list → state of the subscription
    taken_on: Counter[bytes] = field(default_factory=Counter)  # mailbox → new persons in this transaction

    @classmethod
    def of(cls, rows: Sequence[Wish]) -> _Known:
        keys = {bytes(row.address_key) for row in rows}
        ids = {row.subscriber_id for row in rows if row.subscriber_id is not None}
        people = list(Subscriber.objects.filter(address_key__in=keys))
        by_id = {each.pk: each for each in (*people, *(Subscriber.objects.filter(pk__in=ids) if ids else ()))}
        joined = Subscription.objects.filter(subscriber__in=[each.pk for each in people])
        suppressed = Suppression.objects.filter(pk__in=keys).values_list("address_key", "reason")
        return cls(
            people={bytes(each.address_key): each for each in people},
            by_id=by_id,
            suppressed={bytes(key): reason for key, reason in suppressed},
            states={
                (subscriber, name): state
                for subscriber, name, state in joined.values_list("subscriber_id", "list__name", "state")
            },
        )

    def state(self, person: Subscriber | None, list: str) -> str:
        return self.states.get((person.pk, list), "") if person else ""

    def is_subscribed(self, person: Subscriber) -> bool:
        return any(state == "subscribed" for (id, _), state in self.states.items() if id == person.pk)


def _decide(wish: Wish, known: _Known, desk: Desk) -> _Answer:
    person = known.people.get(bytes(wish.address_key))
    reason = known.suppressed.get(bytes(wish.address_key), "")
    blocked = f"suppressed: {reason}" if reason and reason not in LIFTED_BY_OPT_IN else ""
    language = desk.language(wish.language)
    if wish.kind == "link":
        if person is None:
            return _Answer(wish=wish, reason="nobody has this address")
        return _Answer(wish=wish, mail=Mail("link", language), person=person)
    if wish.kind == "address":
        person = known.by_id.get(wish.subscriber_id or 0)
        if person is None or blocked:
            return _Answer(wish=wish, reason=blocked or "the person is gone")
        return _Answer(wish=wish, mail=Mail("address", language), person=person)
    offered = [each for each in dict.fromkeys(wish.lists) if each in desk.lists and not desk.lists[each].private]
    if blocked or not offered:
        return _Answer(wish=wish, reason=blocked or "none of its lists is offered any more")
    # Who bounced or was erased confirms anew, whatever lists they are on.
    lacking = [each for each in offered if reason or known.state(person, each) != "subscribed"]
    if not lacking:
        return _Answer(wish=wish, mail=Mail("known", language), person=person)
    # Whoever a mail was forwarded to can ask on its preferences page, and must not sign its owner up.
    forwarded = wish.how == "preferences"
    new = not reason and not forwarded and (person is None or known.is_subscribed(person))
    at_once = [
        each
        for each in lacking
        if new and not desk.lists[each].double_opt_in and known.state(person, each) != "unsubscribed"
    ]
    rest = tuple(each for each in lacking if each not in at_once)
    mail = desk.confirmation(wish, rest) if rest else None
    return _Answer(wish=wish, mail=mail, lists=rest, at_once=tuple(at_once), person=person)


# --- without a mail that asks -----------------------------------------------------------------------------------------


def _subscribe(answers: list[_Answer], known: _Known, desk: Desk, now: float) -> None:
    """Subscribes persons to lists that do without a double opt-in, with the event that says what they saw.

    A mailbox is taken on three times in all: with dots and pluses it could be given a thousand addresses.
    """
    new: list[_Answer] = []
    mailboxes = {id(each): mailbox_key(desk.config, each.wish.address) for each in answers if each.person is None}
    before = Allowance.objects.filter(kind="signup", key__in={*mailboxes.values()}) if mailboxes else ()
    totals = Counter({bytes(each.key): each.total for each in before})
    for each in answers:
        if mailbox := mailboxes.get(id(each)):
            if totals[mailbox] >= LIMITS["signup"][1]:
                each.at_once, each.mail, each.reason = (), None, OVER_IN_ALL
                continue
            totals[mailbox] += 1
            known.taken_on[mailbox] += 1
            new.append(each)
    answers = sorted((each for each in answers if each.at_once), key=lambda each: bytes(each.wish.address_key))
    if not answers:
        return
    at = datetime.fromtimestamp(now, UTC)
    Subscriber.objects.bulk_create(
        [
            Subscriber(
                address_key=bytes(each.wish.address_key),
                address=each.wish.address,
                name=each.wish.name,
                language=each.wish.language,
                created_at=at,
            )
            for each in sorted(new, key=lambda each: bytes(each.wish.address_key))
        ],
        ignore_conflicts=True,  # imported at this moment
    )
    keys = [bytes(each.wish.address_key) for each in answers]
    # No key: whoever leaves holds a subscription, and then looks whether the person of the event is there.
    locked = Subscriber.objects.filter(address_key__in=keys).order_by("address_key").select_for_update(no_key=True)
    people = {bytes(each.address_key): each for each in locked}
    # Asked once the persons are locked: an erasure or a complaint at this moment has either ended, or waits for us.
    suppressed = {bytes(key) for key in Suppression.objects.filter(pk__in=keys).values_list("pk", flat=True)}
    wanted: dict[tuple[int, int], _Answer] = {}
    names = sorted({name for each in answers for name in each.at_once})
    lists = {name: models.List.objects.get_or_create(name=name)[0].pk for name in names}
    for each in answers:
        key = bytes(each.wish.address_key)
        each.person = people.get(key)
        if each.person and key not in suppressed:
            wanted |= {(each.person.pk, lists[name]): each for name in each.at_once}
    joined = _join(wanted, at)
    for each in answers:
        on = [name for name in each.at_once if each.person and (each.person.pk, lists[name]) in joined]
        rest = {*each.lists, *each.at_once}.difference(on)  # where they had left meanwhile, say
        each.lists, each.at_once = tuple(name for name in each.wish.lists if name in rest), tuple(on)
        each.mail = desk.confirmation(each.wish, each.lists) if each.lists else None


def _join(wanted: Mapping[tuple[int, int], _Answer], at: datetime) -> set[tuple[int, int]]:
    """Makes subscriptions of (subscriber, list), each with its event: those that were made."""
    pairs, made = list(wanted), dict[tuple[int, int], int]()
    moment = connection.ops.adapt_datetimefield_value(at)
    with connection.cursor() as cursor:
        for start in range(0, len(pairs), 100):  # SQLite takes 999 values in a statement, by the oldest limit
            part = pairs[start : start + 100]
            cursor.execute(
                "INSERT INTO subscription (list_id, subscriber_id, state, joined_at, changed_at)"
                f" VALUES {', '.join(['(%s, %s, %s, %s, %s)'] * len(part))} ON CONFLICT (list_id, subscriber_id)"
                " DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at"
                " WHERE subscription.state = 'unconfirmed' RETURNING subscriber_id, list_id, id",
                [value for person, list in part for value in (list, person, "subscribed", moment, moment)],
            )
            made |= {(person, list): id for person, list, id in cursor.fetchall()}
        events = Consent.objects.bulk_create(_signed_up(wanted[pair].wish, *pair, at) for pair in made)
        cursor.executemany(
            "UPDATE subscription SET consent_id = %s WHERE id = %s",
            [(event.pk, id) for event, id in zip(events, made.values(), strict=True)],
        )
    return {*made}


def _signed_up(wish: Wish, person: int, list: int, at: datetime) -> Consent:
    asked = {"asked_at": datetime.fromtimestamp(wish.at, UTC).isoformat(timespec="seconds")}
    return Consent(
        subscriber_id=person,
        list_id=list,
        kind="signup",
        text=wish.text,
        text_version=wish.text_version,
        language=wish.text_language or wish.language,
        how=wish.how,
        evidence={**asked, **({"network": wish.network} if wish.network else {})},
        at=at,
    )


# --- limits, letters, and what becomes of the wishes ------------------------------------------------------------------

OVER_A_DAY = "over the limit: as many mails as a day allows"
OVER_IN_ALL = "over the limit: as many mails as are sent in all, and none was confirmed"


def _limit(answers: Sequence[_Answer], known: _Known, desk: Desk, made: Made, now: float) -> None:
    """Leaves a mail to those whose mailbox may have one more, and counts it. Raises `_Lacking`."""
    lacking = set()
    counted: list[tuple[_Answer, tuple[bytes, str]]] = []
    for answer in answers:
        if answer.mail and not made.get(answer.mail):
            if edition := desk.ready(answer.mail):
                made[answer.mail] = edition
            else:
                answer.rests = desk.rests(answer.mail, now)
                if not answer.rests:
                    lacking.add(answer.mail)
        if answer.mail and not answer.rests:
            counted.append((answer, (mailbox_key(desk.config, answer.to[0]), answer.counts)))
    if lacking:
        raise _Lacking(lacking)
    keys = {key for _, key in counted} | {(mailbox, "signup") for mailbox in known.taken_on}
    allowances = _locked(sorted(keys), now)
    for mailbox, count in known.taken_on.items():
        allowances[mailbox, "signup"].total += count
    for answer, key in counted:
        allowance = allowances[key]
        a_day, in_all = LIMITS[answer.counts]
        today = allowance.today if now - allowance.since < DAY else 0
        if allowance.total >= in_all or today >= a_day:
            answer.mail, answer.reason = None, OVER_IN_ALL if allowance.total >= in_all else OVER_A_DAY
            continue
        # `since` is when the last one was posted, so that no 24 hours hold more than the limit, wherever they begin.
        allowance.total, allowance.today, allowance.since = allowance.total + 1, today + 1, now
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE allowance SET total = %s, today = %s, since = %s WHERE id = %s",
            [(each.total, each.today, each.since, each.pk) for each in allowances.values()],
        )


def _locked(keys: Sequence[tuple[bytes, str]], now: float) -> dict[tuple[bytes, str], Allowance]:
    """These allowances, made where they are not there, and locked, in their order."""
    if not keys:
        return {}
    rows = ", ".join(["(%s, %s, 0, 0, %s)"] * len(keys))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO allowance (key, kind, total, today, since) VALUES {rows} ON CONFLICT (key, kind)"
            " DO UPDATE SET total = allowance.total RETURNING id, key, kind, total, today, since",
            [value for key, kind in keys for value in (key, kind, now)],
        )
        found = cursor.fetchall()
    return {
        (bytes(key), kind): Allowance(pk=id, key=bytes(key), kind=kind, total=total, today=today, since=since)
        for id, key, kind, total, today, since in found
    }


PURPOSES: Mapping[str, str] = {"confirm": "confirm", "link": "manage", "address": "address"}
"""Of the link that a mail carries in CONFIRM_URL."""


def _letter(answer: _Answer, made: Made, desk: Desk) -> Letter:
    assert answer.mail
    address, key = answer.to
    slots = {}
    if purpose := PURPOSES.get(answer.mail.notice):
        slots["CONFIRM_URL"] = personal_url(desk.config.base_url, desk.keyring, purpose, answer.wish.pk)
    if answer.wish.kind == "address":
        slots["NAME"] = ""  # of whom it is asked for, the new mailbox need not know
    return Letter(
        edition=made[answer.mail],
        key=f"{answer.mail.notice}:{answer.wish.pk}",
        address=address,
        address_key=key,
        slots=slots,
        subscriber=answer.person.pk if answer.person else None,
    )


def _write(answers: Sequence[_Answer], now: float) -> None:
    rows = []
    for answer in answers:
        wish = answer.wish
        if answer.at_once and answer.lists:
            # What was granted becomes a wish of its own, and this one goes on about the others.
            _granted_part(answer, now)
        elif answer.at_once:
            wish.state, wish.granted_at, wish.welcome_due = "granted", now, True
        if answer.person and wish.kind != "address":
            wish.subscriber_id = answer.person.pk
        if answer.rests:
            wish.not_before = answer.rests
        elif answer.mail:
            wish.state, wish.mailed_at = "mailed", now
        elif wish.state == "waiting":
            wish.state, wish.reason = "dropped", answer.reason
        lists = answer.lists or wish.lists
        kept = wish.state in ("waiting", "mailed")
        rows.append(
            (
                *(wish.state, wish.reason, wish.address if kept else "", wish.name if kept else ""),
                *(json.dumps(list(lists)), wish.subscriber_id, wish.mailed_at, wish.granted_at, wish.welcome_due),
                *(wish.not_before, wish.pk),
            )
        )
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE wish SET state = %s, reason = %s, address = %s, name = %s, lists = %s, subscriber_id = %s,"
            " mailed_at = %s, granted_at = %s, welcome_due = %s, not_before = %s WHERE id = %s",
            rows,
        )


def _granted_part(answer: _Answer, now: float) -> None:
    wish = answer.wish
    Wish.objects.create(
        kind="signup",
        state="granted",
        subscriber=answer.person,
        address="",
        address_key=bytes(wish.address_key),
        language=wish.language,
        lists=list(answer.at_once),
        text=wish.text,
        text_version=wish.text_version,
        text_language=wish.text_language,
        how=wish.how,
        network=wish.network,
        at=wish.at,
        not_before=wish.not_before,
        granted_at=now,
        welcome_due=True,
    )


# --- after a confirmation ---------------------------------------------------------------------------------------------


def _greet(desk: Desk, made: Made, now: float, size: int) -> int:
    rows = list(_welcome_due(now).select_for_update(of=("self",), skip_locked=True)[:size])
    people = Subscriber.objects.in_bulk([row.subscriber_id for row in rows if row.subscriber_id is not None])
    joined: dict[int, dict[str, int]] = {}  # subscriber → list → subscription
    subscribed = Subscription.objects.filter(subscriber__in=[*people], state="subscribed")
    for subscriber, name, id in subscribed.values_list("subscriber_id", "list__name", "pk"):
        joined.setdefault(subscriber, {})[name] = id
    latest: dict[str, str] = {}
    letters: list[Letter] = []
    lacking: set[Mail] = set()
    for row in rows:
        person = people.get(row.subscriber_id or 0)
        language = desk.language(row.language)
        mails: list[tuple[str, Mail]] = []  # with their keys
        if person and row.kind == "address":
            mails = [(f"moved:{row.pk}", Mail("moved", language))]
        elif person and row.kind == "signup":
            lists = {each: id for each, id in joined.get(person.pk, {}).items() if each in row.lists}
            mails = [(f"welcome:{id}", mail) for id, mail in _welcomes(lists, language, desk)]
        for _, mail in mails:
            if mail not in made and (edition := desk.ready(mail)):
                made[mail] = edition
        missing = [mail for _, mail in mails if mail not in made]
        rests = max((desk.rests(mail, now) for mail in missing), default=0.0)
        lacking |= {mail for mail in missing if not desk.rests(mail, now)}
        if rests:  # with all its mails
            row.not_before = rests
            continue
        row.welcome_due = False
        if missing or person is None:
            continue
        for key, mail in mails:
            moved = mail.notice == "moved"
            if not moved and language not in latest:
                latest[language] = _latest(desk, language)
            letters.append(
                Letter(
                    edition=made[mail],
                    key=key,
                    address=row.address if moved else person.address,
                    address_key=bytes(row.address_key if moved else person.address_key),
                    slots={} if moved else {"VIEW_URL": latest[language]},
                    subscriber=person.pk,
                )
            )
    if lacking:
        raise _Lacking(lacking)
    post_many(letters, provider=desk.config.route)
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE wish SET welcome_due = %s, not_before = %s, address = %s WHERE id = %s",
            [(row.welcome_due, row.not_before, row.address if row.welcome_due else "", row.pk) for row in rows],
        )
    return len(rows)


def _welcomes(lists: Mapping[str, int], language: str, desk: Desk) -> list[tuple[int, Mail]]:
    """One welcome for each list that has its own, one for all others; each with the subscription that it is told by."""
    own = [(id, Mail("welcome", language, welcome=each)) for each, id in lists.items() if each in desk.welcomes]
    others = [id for each, id in lists.items() if each not in desk.welcomes]
    return [*own, *([(min(others), Mail("welcome", language))] if others else [])]


def _latest(desk: Desk, language: str) -> str:
    """The page of the latest issue that anybody may read, in this language or the default one; else the archive's."""
    base = desk.config.base_url
    shown = published([each.id for each in desk.lists.values() if each.private]).rows
    pages = [each for each in shown if each.language in (language, desk.config.default_language)]
    if not pages:
        return f"{base.rstrip('/')}/archive/{quote(language, safe='')}/"
    latest = max(pages, key=lambda each: (each.first_at, each.issue, each.language == language))
    return archive_url(base, language=latest.language, issue=latest.issue)


# --- forgetting -------------------------------------------------------------------------------------------------------


def forget(now: float, *, size: int = 500) -> int:
    """Removes one portion of what is too old to matter: wishes that nobody confirmed, counts of mails. Says how many.

    Looked for before anything is written: SQLite has one writer for all.
    """
    old, older = now - KEPT, now - KEPT_GRANTED
    wishes = Wish.objects.order_by("at")
    gone = 0
    for chosen in (
        wishes.filter(at__lt=old).exclude(state="granted"),
        wishes.filter(at__lt=older, granted_at__lt=older, state="granted"),
        Allowance.objects.filter(kind__in=set(LIMITS) - {"signup"}, since__lt=now - DAY),
        # Who did not answer three mails within a year may be asked again. The key is all that is known of them.
        Allowance.objects.filter(kind="signup", since__lt=older),
    ):
        ids = list(chosen.values_list("pk", flat=True)[:size])
        if ids:
            gone += chosen.order_by().filter(pk__in=ids).delete()[0]  # chosen still: it may have been granted meanwhile
    return gone
