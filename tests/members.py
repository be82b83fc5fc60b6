"""Members of a workspace, and the mail that they get: the pages ask for it, the duties make it, the outbox holds it."""

from __future__ import annotations

import email
import email.policy
import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from html import unescape

from newsletter.config import Config
from newsletter.links import PATHS
from newsletter.rendering.render import sample_root
from pages import Pages

ISSUE, PRIVATE = "2017-11-19", "2017-11-26"
ISSUE_TEXT = """\
date: 2017-11-19
subject: {en: Peru this week, es: Perú esta semana}
intro: {en: Good morning., es: Buenos días.}
stories:
  - title: {en: A vote, es: Una votación}
    date: 2017-11-19
    url: https://news.valley.org/vote
    image: {src: images/PICTURE, alt: {en: The valley, es: El valle}}
    summary: {en: They voted., es: Votaron.}
"""


def write_issue(config: Config, name: str = ISSUE, *, more: str = "") -> None:
    """An issue with one story and one picture; `more` are further lines of it."""
    pictures = sample_root() / "issues" / "images"
    picture = next(path for path in sorted(pictures.iterdir()) if path.suffix in (".png", ".jpg"))
    (config.issues / "images").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, config.issues / "images" / picture.name)
    text = ISSUE_TEXT.replace("PICTURE", picture.name).replace(ISSUE, name)
    (config.issues / f"{name}.yaml").write_text(text + more, "utf-8")


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message in the outbox. `kind` is confirm, welcome, known, link, address, moved or the name of an issue."""

    kind: str
    to: str
    message: EmailMessage

    @property
    def links(self) -> tuple[str, ...]:
        """Every address in it, in its headers, its text and its HTML: to be followed and to be loaded; each once."""
        found: list[str] = []
        for header in ("List-Unsubscribe", "List-Archive", "List-Help", "List-Subscribe", "Archived-At"):
            found += re.findall(r"<([^>]+)>", self.message.get(header, ""))
        for part in self.message.walk():
            if part.get_content_type() == "text/html":
                html = part.get_content()
                found += [unescape(link) for link in re.findall(r"""(?:href|src|action)=["']([^"']+)["']""", html)]
                found += re.findall(r"""url\(["']?([^"')]+)["']?\)""", html)
            elif part.get_content_type() == "text/plain":
                found += re.findall(r"https?://[^\s<>]+", part.get_content())
        return tuple(dict.fromkeys(found))

    def token(self, purpose: str) -> str:
        """The token of a purpose that it carries. Raises LookupError when there is none."""
        path = PATHS[purpose]
        found = {match[1] for link in self.links if (match := re.search(rf"/{path}/([^/?#]+)$", link))}
        if len(found) != 1:
            raise LookupError(f"{len(found)} links of the purpose {purpose} in the mail {self.kind}")
        return found.pop()


def received(config: Config, to: str = "", kind: str = "") -> list[Received]:
    """What lies in the outbox, for one address and of one kind, the oldest first."""
    folder = config.outbox / "new"
    paths = sorted(folder.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name)) if folder.exists() else []
    mails = []
    for path in paths:
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        mails.append(Received(kind=path.name.partition(".")[0], to=str(message["To"]), message=message))
    return [mail for mail in mails if to in mail.to and mail.kind.startswith(kind)]


def work(config: Config) -> None:
    """What a worker does until nothing is left to be made or sent."""
    from newsletter.engine import local
    from newsletter.providers import open_ways
    from newsletter.store import schema
    from newsletter.store.models import Delivery, Mailing, Wish

    if not config.database_url:
        schema.prepare(config)
    ends = time.monotonic() + 120

    def enough() -> bool:
        due = Wish.objects.filter(state="waiting", not_before__lte=time.time())
        if due.exists() or Wish.objects.filter(welcome_due=True).exists():
            return time.monotonic() > ends
        busy = Mailing.objects.filter(state="opening").exists()
        busy = busy or Delivery.objects.filter(state__in=("pending", "sending")).exists()
        return not busy or time.monotonic() > ends

    local.run(config, open_ways(config), stop=threading.Event(), until=enough)
    assert time.monotonic() < ends, "the worker did not come to an end"


def send_issue(config: Config, name: str = ISSUE, *, list: str = "weekly", more: str = "") -> None:
    """An issue is written and sent to the list, as `newsletter send` does it."""
    from newsletter.checks import check_issue
    from newsletter.store import mailings
    from newsletter.store.lists import list_id

    write_issue(config, name, more=more)
    checked = check_issue(config.issues / f"{name}.yaml", config)
    assert checked.ok, checked.findings
    mailings.open_mailing(
        checked.editions,
        issue=name,
        list=list_id(config, list),
        default_language=config.default_language,
        provider=config.route,
    )
    work(config)


def sign_up(pages: Pages, address: str, *lists: str, language: str = "en", name: str = "") -> None:
    """At the page, as somebody who took a minute."""
    form = {
        "email": address,
        "name": name,
        "list": lists or ("weekly",),
        "language": language,
        "time": pages.site.keyring.token("form", int(time.time()) - 60),
    }
    answer = pages.post(f"/signup/?lang={language}", form)
    assert answer.status == 200, answer.text


def becomes_member(pages: Pages, address: str, *lists: str, language: str = "en", name: str = "") -> None:
    """Signs up, and presses the button behind the link of the mail that comes; the welcome is there afterwards."""
    config = pages.site.config
    sign_up(pages, address, *lists, language=language, name=name)
    work(config)
    token = received(config, address, "confirm")[-1].token("confirm")
    assert pages.post(f"/c/{token}", {"lang": language}).status == 200
    work(config)


def every_mail(pages: Pages, address: str, new_address: str) -> Mapping[str, Received]:
    """A member who has got every kind of mail that there is, by kind: the issue under "issue", one that is not public
    under "private"."""
    config = pages.site.config
    becomes_member(pages, address, "weekly", name="Ana")
    send_issue(config)
    send_issue(config, PRIVATE, more="private: true\n")
    sign_up(pages, address, "weekly")  # once more, which is answered by another mail
    form = {"email": address, "time": pages.site.keyring.token("form", int(time.time()) - 60)}
    assert pages.post("/me/?lang=en", form).status == 200
    work(config)
    link = received(config, address, "link")[-1].token("manage")
    assert pages.post(f"/m/{link}/address", {"new_address": new_address}).status == 200
    work(config)
    mails = {mail.kind: mail for mail in received(config) if address in mail.to or new_address in mail.to}
    names = {ISSUE: "issue", PRIVATE: "private"}
    return {names.get(kind, kind): mail for kind, mail in mails.items()}


# --- without the worker -----------------------------------------------------------------------------------------------


def keys_of(config: Config, address: str, *, lists: tuple[str, ...] = ("weekly",)) -> dict[str, str]:
    """A member, put into the database with a mail of every kind that went out a minute ago: the token of each purpose.

    "confirm" is of somebody else's sign-up for the address, which waits; "address" of a move to new.<address>.
    """
    from newsletter.store.keys import keyring
    from newsletter.store.models import Delivery, List, Mailing, Subscriber, Wish
    from newsletter.store.subscribers import add
    from newsletter.store.wishes import ask

    for list in lists:
        add(config, address, list=list, consent="signed the sheet", name="Ana", language="en")
    person = Subscriber.objects.get(address=address)
    now = datetime.now(UTC)
    mailing, _ = Mailing.objects.get_or_create(
        kind="issue",
        state="finished",
        defaults={"provider": "outbox", "created_at": now, "watched_at": now, "list": List.objects.get(name=lists[0])},
    )
    delivery = Delivery.objects.create(
        mailing=mailing,
        subscriber=person,
        address=person.address,
        address_key=person.address_key,
        language="en",
        state="accepted",
        at=now.timestamp() - 60,
    )
    keys = keyring(config)
    tokens = {each: keys.token(each, delivery.pk) for each in ("unsubscribe", "preferences")}
    for purpose, kind, to, whose in (
        ("confirm", "signup", address, None),
        ("manage", "link", address, None),
        ("address", "address", f"new.{address}", person.pk),
    ):
        asked = ask(
            config,
            kind=kind,  # type: ignore[arg-type]
            address=to,
            language="en",
            how="page",
            network="198.51.100.0/24",
            lists=("alerts",) if kind == "signup" else (),
            text="I would like to receive “Alerts”." if kind == "signup" else "",
            subscriber=whose,
        )
        assert asked.wish
        Wish.objects.filter(pk=asked.wish).update(state="mailed", mailed_at=time.time() - 60)
        tokens[purpose] = keys.token(purpose, asked.wish)
    return tokens
