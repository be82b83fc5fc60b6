"""`newsletter subscribers …`: the audience, one person at a time. Import and export: subscribers_files.py."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from newsletter.cli import Commands
from newsletter.cli.output import plural

if TYPE_CHECKING:
    from newsletter.config import Config
    from newsletter.store.dossier import Profile
    from newsletter.store.models import Consent, Delivery, Subscriber, Subscription, Wish
    from newsletter.store.subscribers import Erased, Reason

# Name, module, first line of its help, as in newsletter.cli.COMMANDS.
SUBCOMMANDS: tuple[tuple[str, str, str], ...] = (
    ("import", "subscribers_files", "Import subscribers from CSV files or another service's export."),
    ("export", "subscribers_files", "Export subscribers as CSV or JSON."),
    ("add", "subscribers", "Put one person on a list."),
    ("show", "subscribers", "Show everything known of one person, and every mail."),
    ("tag", "subscribers", "Tag people, or take tags away."),
    ("unsubscribe", "subscribers", "Take people off a list, or off every list."),
    ("suppress", "subscribers", "Never mail an address again, whoever imports it."),
    ("unsuppress", "subscribers", "Let mail go to a suppressed address again."),
    ("erase", "subscribers", "Forget a person, for good."),
    ("lists", "subscribers", "Show the lists and segments, and how many people are in each."),
)


class _Subcommands(Commands):
    table = SUBCOMMANDS


@click.group(cls=_Subcommands)
def subscribers() -> None:
    """Who gets the newsletter: add, show, import, export, unsubscribe, erase.

    An address is known however it is written: capitals and blanks around it do not matter.

    \b
    Examples:
      newsletter subscribers import people.csv --dry-run
      newsletter subscribers show ana@example.org
    """


def _opened(ctx: click.Context) -> Config:
    from newsletter.cli.database import open_store
    from newsletter.cli.workspace import open_workspace

    config = open_workspace(ctx)
    open_store(config)
    return config


def _people(config: Config, addresses: Iterable[str]) -> list[tuple[str, Subscriber]]:
    """The subscribers with these addresses, each once. Raises ClickException, naming every address that is unknown."""
    from newsletter.errors import AddressError
    from newsletter.store.subscribers import find

    problems, people = [], {}
    for address in addresses:
        try:
            person = find(config, address)
        except AddressError as error:
            problems.append(f"{address}: {error}")
            continue
        if person is None:
            problems.append(_unknown(address))
        else:
            people[person.pk] = (address, person)
    if problems:
        raise click.ClickException("\n".join(problems))
    return list(people.values())


def _unknown(address: str) -> str:
    from newsletter.store.subscribers import near

    others = near(address)
    hint = f"; did you mean {' or '.join(others)}?" if others else ""
    return f"{address}: nobody with this address is known{hint}"


def _refused(address: str, error: Exception) -> click.ClickException:
    """What the store says of an address, with the address, and commands that can be copied."""
    from newsletter.errors import AddressError

    colon = ":" if isinstance(error, AddressError) else ""
    return click.ClickException(f"{address}{colon} {error}".replace("ADDRESS", shlex.quote(address)))


# --- add, tag ---------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("address")
@click.option("--list", "list_", metavar="NAME", help="Which list. Default: the one of newsletter.yaml.")
@click.option("--name", default="", help="The person's name.")
@click.option("--language", default="", help="The language of their edition.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; may be given several times.")
@click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="Anything else, for segments.")
@click.option("--consent", default="", metavar="TEXT", help="How and when the person agreed. Kept as proof.")
@click.option("--resubscribe", is_flag=True, help="The person left, and has asked to come back.")
@click.pass_context
def add(
    ctx: click.Context,
    address: str,
    *,
    list_: str | None,
    name: str,
    language: str,
    tags: tuple[str, ...],
    attributes: tuple[str, ...],
    consent: str,
    resubscribe: bool,
) -> None:
    """Put one person on a list.

    Without --consent the person is unconfirmed, and nothing is sent. Somebody who is known gets what you state, and
    keeps the rest. Nobody is brought back who left, complained or was erased.

    \b
    Examples:
      newsletter subscribers add ana@example.org --name Ana --language es
      newsletter subscribers add ana@example.org --consent "signed the sheet at the fair, 19 November 2017"
    """
    from newsletter.content.segments import attribute_from_text
    from newsletter.errors import AddressError, NoConsent

    kept: dict[str, Any] = {}
    for each in attributes:
        attribute, equals, value = each.partition("=")
        if not equals or not attribute.strip():
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--attribute")
        try:
            kept[attribute] = attribute_from_text(value)
        except ValueError as error:
            raise click.BadParameter(f"{attribute} {error}", param_hint="--attribute") from None
    if resubscribe and not consent.strip():
        raise click.UsageError("--resubscribe needs --consent: how and when did the person ask to come back?")
    config = _opened(ctx)
    from newsletter.store.subscribers import add as add_subscriber

    on = list_ or config.list
    try:
        added = add_subscriber(
            config,
            address,
            list=on,
            name=name,
            language=language,
            tags=tags,
            attributes=kept,
            consent=consent.strip(),
            resubscribe=resubscribe,
        )
    except (AddressError, NoConsent) as error:
        raise _refused(address, error) from None
    news = f"; new: {', '.join(added.changed)}" if added.changed else ""
    if added.state == added.before:
        click.echo(f"{address}: was on {on} already, {added.state}{news}.")
    else:
        verb = {"unsubscribed": "came back to", "unconfirmed": "is now subscribed to"}.get(added.before or "", "is on")
        click.echo(f"{address}: {verb} {on}, {added.state}{news}.")
    if added.state == "unconfirmed":
        again = f"newsletter subscribers add {shlex.quote(address)} --list {on} --consent"
        click.echo(f'  Nothing is sent before there is consent. If you have it: {again} "how and when"')


@click.command()
@click.argument("addresses", metavar="ADDRESS…", nargs=-1, required=True)
@click.option("--add", "new", multiple=True, metavar="TAG", help="A tag to give; may be given several times.")
@click.option("--remove", "old", multiple=True, metavar="TAG", help="A tag to take away; likewise.")
@click.pass_context
def tag(ctx: click.Context, addresses: tuple[str, ...], new: tuple[str, ...], old: tuple[str, ...]) -> None:
    """Tag people, or take tags away.

    \b
    Example:
      newsletter subscribers tag ana@example.org luis@example.org --add board --remove guest
    """
    if not new and not old:
        raise click.UsageError("say --add TAG or --remove TAG")
    config = _opened(ctx)
    from newsletter.store.subscribers import alike
    from newsletter.store.subscribers import tag as tag_subscriber

    for each in new:
        if other := alike(each):
            click.echo(f'note: there is a tag "{other}" too; "{each}" is another one', err=True)
    for address, person in _people(config, addresses):
        given, taken = tag_subscriber(person, add=new, remove=old)
        said = [f"now tagged {', '.join(given)}"] if given else []
        said += [f"no longer {', '.join(taken)}"] if taken else []
        click.echo(f"{address}: {'; '.join(said) or 'nothing to change'}.")


# --- unsubscribe, suppress, erase -------------------------------------------------------------------------------------


@click.command()
@click.argument("addresses", metavar="ADDRESS…", nargs=-1, required=True)
@click.option("--list", "list_", metavar="NAME", help="Which list. Default: every list.")
@click.pass_context
def unsubscribe(ctx: click.Context, addresses: tuple[str, ...], list_: str | None) -> None:
    """Take people off a list, or off every list.

    What waits to be sent to them is not sent. No import brings them back.

    \b
    Example:
      newsletter subscribers unsubscribe ana@example.org
    """
    config = _opened(ctx)
    from newsletter.store.lists import list_id
    from newsletter.store.models import List
    from newsletter.store.subscribers import unsubscribe as unsubscribe_subscriber

    if list_ and not List.objects.filter(name=list_).exists():
        list_id(config, list_)  # raises unless lists.yaml has it
    for address, person in _people(config, addresses):
        left = unsubscribe_subscriber(person, list=list_, how="command line")
        if not left:
            click.echo(f"{address}: was not on {list_ or 'any list'}.")
            continue
        click.echo(f"{address}: unsubscribed from {', '.join(left)}.")
        back = f"newsletter subscribers add {shlex.quote(address)} --list {left[0]} --resubscribe --consent"
        click.echo(f'  If that was a slip: {back} "why you are sure"')


@click.command()
@click.argument("addresses", metavar="ADDRESS…", nargs=-1, required=True)
@click.option(
    "--reason",
    type=click.Choice(["manual", "bounce", "complaint"]),
    default="manual",
    help="Why. It decides who may lift it. Default: manual.",
)
@click.option("--note", default="", metavar="TEXT", help="A note for those who come after you; no address in it.")
@click.pass_context
def suppress(ctx: click.Context, addresses: tuple[str, ...], reason: Reason, note: str) -> None:
    """Never mail an address again, whoever imports it.

    The address need not be known. Whoever has it stays on their lists, and gets nothing.

    \b
    Example:
      newsletter subscribers suppress ana@example.org --note "asked by telephone, 19 November 2017"
    """
    config = _opened(ctx)
    from newsletter.errors import AddressError
    from newsletter.store.subscribers import address_key
    from newsletter.store.subscribers import suppress as suppress_address

    problems = []
    for address in addresses:
        try:
            address_key(config, address)
        except AddressError as error:
            problems.append(f"{address}: {error}")
    if problems:
        raise click.ClickException("\n".join(problems))
    for address in addresses:
        row = suppress_address(config, address, reason=reason, note=note)
        if row.reason != reason:
            click.echo(f"{address}: is suppressed already, for a graver reason: {row.reason}, {row.at:%Y-%m-%d}.")
            continue
        click.echo(f"{address}: suppressed ({row.reason}) since {row.at:%Y-%m-%d}.")
        lift = " --lift complaint" if row.reason == "complaint" else ""
        click.echo(f"  To lift that: newsletter subscribers unsuppress {shlex.quote(address)}{lift}")


@click.command()
@click.argument("address")
@click.option(
    "--lift",
    type=click.Choice(["bounce", "complaint", "erased", "manual"]),
    help="What you know to be the reason. Needed for a complaint and for an erasure.",
)
@click.pass_context
def unsuppress(ctx: click.Context, address: str, lift: Reason | None) -> None:
    """Let mail go to a suppressed address again.

    Do it for a complaint only when the person asks for mail again: their provider counts complaints.

    \b
    Examples:
      newsletter subscribers unsuppress ana@example.org
      newsletter subscribers unsuppress ana@example.org --lift complaint
    """
    config = _opened(ctx)
    from newsletter.errors import AddressError, NoConsent, NotFound
    from newsletter.store.subscribers import find
    from newsletter.store.subscribers import unsuppress as unsuppress_address

    try:
        reason = unsuppress_address(config, address, lift=lift)
    except (AddressError, NoConsent, NotFound) as error:
        raise _refused(address, error) from None
    click.echo(f"{address}: no longer suppressed (it was: {reason}).")
    if find(config, address) is None:
        click.echo(f"  It is on no list: newsletter subscribers add {shlex.quote(address)} …")


@click.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--compact", is_flag=True, help="Write an SQLite file anew whatever its size. Nothing is sent meanwhile.")
@click.pass_context
def erase(ctx: click.Context, address: str, yes: bool, compact: bool) -> None:
    """Forget a person, for good.

    Deletes the person with their name, tags, attributes, subscriptions, consents, and what they asked for at the pages.
    Deliveries stay in the counts and forget whom they went to. Only a key stays, from which the address cannot be told,
    so that no import brings it back.

    \b
    Example:
      newsletter subscribers erase ana@example.org
    """
    config = _opened(ctx)
    from newsletter.errors import AddressError, NotFound
    from newsletter.store.dossier import profile
    from newsletter.store.subscribers import erase as erase_person

    try:
        known = profile(config, address)
    except AddressError as error:
        raise _refused(address, error) from None
    except NotFound:
        raise click.ClickException(_unknown(address)) from None
    if known.subscriber or known.deliveries or known.wishes:
        asked = f", {plural(len(known.wishes), 'request')} at the pages" if known.wishes else ""
        parts = f"{plural(len(known.subscriptions), 'subscription')} and {plural(len(known.deliveries), 'mail')}"
        click.echo(f"{address}: {parts}{asked}.")
        if not yes:
            click.confirm("This cannot be undone. Erase?", abort=True)
    erased = erase_person(config, address)
    _tell_erased(config, address, erased, compact=compact)


def _tell_erased(config: Config, address: str, erased: Erased, *, compact: bool) -> None:
    words = "erased" if erased.known or erased.wishes or erased.deliveries else "there was nothing more to erase"
    click.echo(f"{address}: {words}.")
    if erased.deliveries:
        click.echo(f"  {plural(erased.deliveries, 'mail')} sent or planned: the address is forgotten.")
    if erased.skipped:
        click.echo(f"  Not sent any more: {plural(erased.skipped, 'mail')} that waited.")
    if erased.under_way:
        click.echo(f"  At this very moment on the way to the provider: {plural(erased.under_way, 'mail')}.")
    if not config.database_url:
        _clean_file(config, address, erased, compact=compact)
    click.echo("  Out of reach: backups, what the provider keeps, and mail that has left.")
    copies = sorted(config.database.parent.glob(f"{config.database.name}.before-*"))
    if copies and not config.database_url:
        click.echo("  These copies of the database are older, delete them when you need them no more:")
        for path in copies:
            click.echo(f"    {config.shown(path)}")


def _clean_file(config: Config, address: str, erased: Erased, *, compact: bool) -> None:
    """Sees to it that the SQLite file itself holds the address nowhere."""
    from newsletter.store.subscribers import clean_file

    again = f"newsletter subscribers erase {shlex.quote(address)} --compact"
    left = clean_file(config, erased, always=compact)
    if left == "journal":
        click.echo("  Another program is reading the database, and its journal keeps old pages until that ends;")
        click.echo(f"  then run: {again}")
    elif left == "large":
        click.echo("  Unused parts of the file may still hold it. When nothing is being sent, run:")
        click.echo(f"  {again}")


# --- show -------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def show(ctx: click.Context, address: str, as_json: bool) -> None:
    """Show everything known of one person, and every mail.

    Answers "did she get it?": what became of each mail, when, and in the provider's words.

    \b
    Example:
      newsletter subscribers show ana@example.org
    """
    config = _opened(ctx)
    from newsletter.errors import AddressError, NotFound
    from newsletter.store.dossier import dossier, profile
    from newsletter.store.pace import way_names

    try:
        known = profile(config, address)
    except AddressError as error:
        raise _refused(address, error) from None
    except NotFound:
        raise click.ClickException(_unknown(address)) from None
    ways = way_names()
    if as_json:
        click.echo(json.dumps(dossier(address, known, ways), ensure_ascii=False, indent=2))
        return
    click.echo(_answer(address, known))
    if known.subscriber:
        _show_person(known.subscriber, known)
        _show_lists(config, known.subscriber, known)
    if known.wishes:
        click.echo("Asked for at the pages:")
    for wish in known.wishes:
        click.echo(f"  {_wish(wish)}")
    if known.deliveries:
        click.echo("Mail, newest first:")
    for delivery in known.deliveries:
        click.echo(f"  {_delivery(delivery, known.subscriber, ways)}")
    if not known.deliveries and known.subscriber:
        click.echo("No mail yet.")


def _answer(address: str, known: Profile) -> str:
    """Whether mail goes to the person, in one sentence."""
    from newsletter.store.subscribers import refusal

    if known.suppression:
        reason = refusal(known.suppression).replace("ADDRESS", shlex.quote(address))
        return f"{address} gets nothing: {reason}." if known.subscriber else f"{address} {reason}."
    if known.subscriber is None:
        if not known.deliveries:
            return f"{address} is no subscriber."
        return f"{address} is no subscriber; mail went to it all the same."
    lists = [each.list.name for each in known.subscriptions if each.state == "subscribed"]
    if lists and (paused := _paused(known.subscriber)):
        return f"{known.subscriber.address} gets nothing: {paused} by their own wish, then {', '.join(lists)} again."
    return f"{known.subscriber.address} {'gets ' + ', '.join(lists) if lists else 'gets nothing: is on no list'}."


def _show_person(person: Subscriber, known: Profile) -> None:
    rows = {
        "name": _plain(person.name),
        "language": person.language or "the default language",
        "known since": _time(person.created_at),
        "tags": ", ".join(map(_plain, known.tags)),
        "attributes": ", ".join(f"{_plain(name)}: {_value(value)}" for name, value in person.attributes.items()),
        "issues": _paused(person),
        "tracking": {None: "", True: "agreed to", False: "refused"}[person.tracking],
    }
    for label, text in rows.items():
        if text:
            click.echo(f"  {label:<12} {text}")


def _paused(person: Subscriber) -> str:
    """ "paused until 2026-12-24"; "" for somebody who has not paused, or no longer."""
    from newsletter.store.ledger import paused_words

    until = person.paused_until or 0.0
    return paused_words(until) if until > time.time() else ""


def _show_lists(config: Config, person: Subscriber, known: Profile) -> None:
    own = {each.pk for each in known.consents}
    events = list(known.consents)
    for each in known.subscriptions:
        if each.consent and each.consent.pk not in own:  # an import's, shared by all that it brought
            events.append(each.consent)
            own.add(each.consent.pk)
    if known.subscriptions:
        click.echo("Lists:")
    for each in known.subscriptions:
        click.echo(f"  {each.list.name}: {_subscription(each)}{_in_segments(config, person, known, each)}")
    if events:
        click.echo("Consent:")
    for event in sorted(events, key=lambda each: (each.at, each.pk)):
        click.echo(f"  {_consent(event)}")


def _subscription(row: Subscription) -> str:
    changed = _time(row.changed_at)
    joined = "" if row.joined_at == row.changed_at else f", joined {_time(row.joined_at)}"
    proof = "" if row.consent else ", without proof of consent"
    return {
        "subscribed": f"subscribed since {changed}{joined}{proof}",
        "unconfirmed": f"unconfirmed since {changed}, so that nothing is sent",
        "unsubscribed": f"left on {changed}{joined}",
    }[row.state]


def _in_segments(config: Config, person: Subscriber, known: Profile, row: Subscription) -> str:
    from newsletter.content.lists import load_lists
    from newsletter.content.segments import matches
    from newsletter.errors import InputError

    try:
        segments = load_lists(config).segments if row.state == "subscribed" else {}
    except InputError:  # `check` and `lists` say what is wrong with it
        return ""
    names = [
        name
        for name, segment in segments.items()
        if matches(
            segment,
            language=person.language,
            tags=known.tags,
            attributes=person.attributes,
            joined_at=row.joined_at,
            now=datetime.now(UTC),
        )
    ]
    return f"; in segment{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""


_KINDS = {
    "import": "imported",
    "add": "added by hand",
    "signup": "signed up",
    "confirm": "confirmed by the person",
    "unsubscribe": "unsubscribed",
    "undo": "took the unsubscription back",
    "reason": "said why",
    "address": "changed the address",
}
_REASONS = {
    "too_many": "too many mails",
    "not_expected": "not what they expected",
    "no_interest": "no longer interested",
    "never_signed_up": "never signed up",
    "other": "something else",
}


def _consent(event: Consent) -> str:
    kind = _KINDS.get(event.kind, event.kind)
    if event.kind == "tracking":
        kind = f"{'agreed' if event.evidence.get('agreed') else 'agrees no more'} that opens and clicks are counted"
    words = [f"{_time(event.at)}: {kind}"]
    words += [event.list.name] if event.list else []
    words += [_plain(event.how)] if event.how else []
    words += [f"text version {_plain(event.text_version)}"] if event.text_version else []
    words += [f"in {event.language}"] if event.language and event.text else []
    if event.kind == "reason":
        chosen, own = event.evidence.get("reason", ""), event.evidence.get("words", "")
        words += [_REASONS.get(chosen, _plain(chosen)) + (f": “{_plain(own)}”" if own else "")]
    return ", ".join(words) + (f": “{_plain(event.text)}”" if event.text else "")


_WISHES = {
    "signup": ("asked to be signed up", "confirmation", "not confirmed yet"),
    "link": ("asked for a link to their data", "link", ""),
    "address": ("asked for another address", "confirmation", "not confirmed yet"),
}


def _wish(row: Wish) -> str:
    """What somebody asked for, and how far it came."""
    asked, mail, still_open = _WISHES[row.kind]
    lists = f" for {', '.join(map(_plain, row.lists))}" if row.lists else ""
    other = f" ({_plain(row.address)})" if row.kind == "address" and row.address and row.state != "granted" else ""
    network = f" from network {_plain(row.network)}" if row.network else ""
    words = [f"{asked}{lists} on {_moment(row.at)}{other}{network}"]
    if row.mailed_at:
        words.append(f"{mail} mailed {_moment(row.mailed_at)}")
    if row.state == "waiting":
        late = row.not_before > datetime.now(UTC).timestamp()
        words.append(f"the mail waits until {_moment(row.not_before)}" if late else "no mail yet: a worker sends it")
    elif row.state == "dropped":
        words.append(f"dropped: {_plain(row.reason) or 'no reason kept'}")
    elif row.state == "granted":
        at = f" {_moment(row.granted_at)}" if row.granted_at else ""
        words.append(f"confirmed{at}" if row.mailed_at else f"granted{at} without a mail")
    elif still_open:
        words.append(still_open)
    return ", ".join(words)


def _delivery(row: Delivery, person: Subscriber | None, ways: Mapping[int, str]) -> str:
    """What became of one mail, in plain words."""
    way = ways.get(row.way or 0, "")
    via, to = way or "the provider", f" to {way}" if way else ""
    mailing = row.mailing
    round = mailing.round  # the delivery's own is empty once a cancelled mailing gave it back
    name = round.issue if round else mailing.name or "a single mail"
    again = f", sent anew ({round.number})" if round and round.number > 1 else ""
    other = f" to {row.address}" if person and row.address and row.address != person.address else ""
    at, detail = _moment(row.at), _plain(row.detail)
    words = f": {detail}" if detail else ""
    if row.state == "pending":
        said = _waiting(row, words)
    else:
        said = {
            "accepted": f"accepted by {via} on {at}"
            + (f" as {_plain(row.provider_ref)}" if row.provider_ref else "")
            + words,
            "sending": f"on its way to {via} since {at}",
            "refused": f"refused by {via} on {at}{words}",
            "in_doubt": f"nobody knows: handed over{to} on {at}, and the answer was lost{words}. "
            f"To decide: newsletter resolve {mailing.pk}",
            "skipped": f"not sent ({detail or 'no reason kept'}), {at}",
        }[row.state]
    fate = ""
    if row.fate:
        said_later = {"delivered": "delivered", "bounced": "came back", "complained": "a complaint came"}
        fate = f"; {said_later.get(row.fate, row.fate)}{f' on {_moment(row.fate_at)}' if row.fate_at else ''}"
    return f"{name} (mailing {mailing.pk}{again}){other}: {said}{fate}"


def _waiting(row: Delivery, words: str) -> str:
    mailing = row.mailing
    if mailing.state == "paused":
        reason = f" ({_plain(mailing.reason)})" if mailing.reason else ""
        return f"waits, since the mailing is paused{reason}. To go on: newsletter resume {mailing.pk}"
    if mailing.state == "cancelled":
        return "will not be sent: the mailing was cancelled"
    if row.attempts:
        tries = "once" if row.attempts == 1 else f"{row.attempts} times"
        then = f", again not before {_moment(row.not_before)}" if row.not_before else ""
        return f"waits; was tried {tries}{then}{words}"
    if row.not_before > datetime.now(UTC).timestamp():
        return f"waits until {_moment(row.not_before)}, its hour where they live"
    return "waits for its turn"


def _plain(text: str) -> str:
    """A text from a file or from another machine: nothing in it that a terminal would obey."""
    from newsletter.source import visible

    return visible(text, longest=500)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else _plain(str(value))


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _moment(seconds: float) -> str:
    return _time(datetime.fromtimestamp(seconds, UTC))


# --- lists ------------------------------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--list", "list_", metavar="NAME", help="Whose segments are counted. Default: the one of newsletter.yaml."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def lists(ctx: click.Context, list_: str | None, as_json: bool) -> None:
    """Show the lists and segments, and how many people are in each.

    \b
    Example:
      newsletter subscribers lists
    """
    config = _opened(ctx)
    from newsletter.store.lists import Members, list_id, load_lists, members
    from newsletter.store.segments import segment_query

    known = load_lists(config)
    counts = members()
    of = list_ or config.list
    chosen = list_id(config, of)
    names = [*known.lists, *(name for name in counts if name not in known.lists)]
    people = {name: counts.get(name, Members()) for name in names}
    sizes = {name: segment_query(segment, chosen).count() for name, segment in known.segments.items()}
    if as_json:
        found = {
            "lists": [{"id": name, "in_file": name in known.lists, **vars(each)} for name, each in people.items()],
            "segments": {"list": of, "subscribed": sizes},
        }
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    width = max(map(len, (*names, *sizes)), default=0)
    for name, each in people.items():
        held = f" ({each.suppressed:,} of them suppressed)" if each.suppressed else ""
        text = f"{each.subscribed:,} subscribed{held}, {each.unconfirmed:,} unconfirmed, {each.unsubscribed:,} left"
        lost = "" if name in known.lists else f"; not in {config.shown(config.lists)} any more"
        click.echo(f"{name:<{width}}  {text}{lost}")
    if sizes:
        click.echo(f"Segments of {of}, subscribed:")
    for name, size in sizes.items():
        click.echo(f"{name:<{width}}  {size:,}")
