"""The workspace and its configuration: newsletter.yaml, the environment and .env, read once into one frozen object."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from newsletter.errors import ConfigError, Finding, Where
from newsletter.shape import Field, Reading, Shape, Text, nearest, read_record, read_value
from newsletter.source import Map, Scalar, parse, read_text

FILE = "newsletter.yaml"

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

SENDER = Shape(
    name="sender",
    fields=(
        Field(name="name", kind="line", required=True, help="The name that readers see in their inbox."),
        Field(name="address", kind="address", required=True, help="The address that mail comes from."),
        Field(name="reply_to", kind="address", help="Where answers go, if not to `address`."),
        Field(
            name="unsubscribe",
            kind="address",
            help="A mailbox that takes unsubscribe requests by mail (the mailto: of List-Unsubscribe).",
        ),
    ),
)

SMTP = Shape(
    name="smtp",
    fields=(
        Field(name="host", kind="string", required=True, help="The mail server, such as `smtp.example.org`."),
        Field(name="port", kind="integer", default=0, help="Its port. Default: 587, or 465 when `security` is `tls`."),
        Field(
            name="security",
            kind="choice",
            choices=("auto", "starttls", "tls", "none"),
            default="auto",
            help="`starttls` and `tls` refuse to go on without encryption. `auto`: `none` for a server on this machine,"
            " `starttls` for every other.",
        ),
        Field(
            name="username",
            kind="string",
            default="",
            help="The account, where the server asks for one. Its password is NEWSLETTER_SMTP_PASSWORD.",
        ),
        Field(name="connections", kind="integer", default=4, help="How many connections are held open, 1 to 100."),
        Field(name="timeout", kind="integer", default=60, help="How many seconds to wait for an answer."),
        Field(
            name="bounces",
            kind="string",
            default="",
            help="A domain whose mail reaches you, such as `bounce.example.org`: each message gets a return path of "
            "its own under it, so that a bounce tells whose it is. Default: bounces go to the sender's address.",
        ),
    ),
)

CONFIG = Shape(
    name="configuration",
    fields=(
        Field(
            name="title",
            kind="line",
            required=True,
            help="The newsletter's name, in each language.",
            example="title: {en: Valley News, es: Noticias del Valle}",
        ),
        Field(name="tagline", kind="line", help="One line under the name."),
        Field(
            name="sender",
            kind=SENDER,
            required=True,
            help="Who the mail comes from.",
            example="sender: {name: Valley News, address: news@example.org}",
        ),
        Field(
            name="postal_address",
            kind="line",
            help="The postal address for the footer. Many laws ask for one (in the USA, CAN-SPAM).",
        ),
        Field(
            name="languages",
            kind="language",
            many=True,
            default=("en",),
            help="Every language an issue appears in. The first is the default: what a plain text is written in.",
        ),
        Field(
            name="missing_translation",
            kind="choice",
            choices=("fallback", "omit", "error"),
            default="fallback",
            help="What to do with a text that an edition lacks: show it in another language, omit it, "
            "or refuse to build.",
        ),
        Field(
            name="week_ends",
            kind="choice",
            choices=WEEKDAYS,
            default="sunday",
            help="The last day of a week. It is the date of the issue that a collected story goes to.",
        ),
        Field(
            name="group_by",
            kind="choice",
            choices=("auto", "date", "section"),
            default="auto",
            help="How stories are grouped. `auto`: by date if two or more share one on average or none has a section.",
        ),
        Field(
            name="sections",
            kind="line",
            keyed=True,
            default={},
            help="Names of the sections that stories may be in, in the order in which they are shown.",
            example="sections: {justice: {en: Justice, es: Justicia}}",
        ),
        Field(
            name="base_url",
            kind="url",
            required=True,
            help="Public address of the web application and of the images. A slash at the end counts for nothing.",
            example="base_url: https://news.example.org",
        ),
        Field(
            name="images",
            kind="choice",
            choices=("link", "embed"),
            default="link",
            help="Whether messages link to images under base_url or carry them inside.",
        ),
        Field(
            name="list", kind="word", default="weekly", help="The list an issue goes to. Its name is part of List-ID."
        ),
        Field(
            name="provider",
            kind="choice",
            choices=("outbox", "smtp"),
            default="outbox",
            help="The way out for messages.",
        ),
        Field(
            name="outbox",
            kind="string",
            default="build/outbox",
            help="The folder (a Maildir) in which the outbox provider leaves messages.",
        ),
        Field(
            name="smtp",
            kind=SMTP,
            help="The mail server of the smtp provider.",
            example="smtp: {host: smtp.example.org, username: news}",
        ),
        Field(
            name="recorders",
            kind="string",
            default="subscribers/recorders",
            help="The folder for flight recorders, which tell after a crash what had left. On a disk of this machine.",
        ),
        Field(
            name="grace",
            kind="integer",
            default=3600,
            help="After so many seconds without a worker, an unfinished mailing waits for somebody to say `resume`: "
            "the database may be an old copy.",
        ),
        Field(
            name="retention",
            kind="integer",
            default=730,
            help="After so many days a delivery forgets its address. 0: never.",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One environment variable that is read, from the environment or from .env (the environment wins)."""

    name: str
    help: str


ENVIRONMENT = (
    Variable(name="NEWSLETTER_BASE_URL", help="Replaces `base_url`, for a staging copy of the workspace."),
    Variable(name="NEWSLETTER_SECRET_KEY", help="Signs the links in messages. At least 32 characters; never in git."),
    Variable(
        name="NEWSLETTER_RETIRED_KEYS",
        help="Former secret keys with spaces between, newest first: links signed with them stay valid.",
    ),
    Variable(
        name="NEWSLETTER_PEPPER",
        help="Turns addresses into the keys under which they are known, suppressed and erased. At least 32 characters; "
        "never changes, never in git: without it no suppression is recognised.",
    ),
    Variable(
        name="DATABASE_URL",
        help="`postgresql://user:password@host/name`. Default: SQLite, in subscribers/newsletter.sqlite3.",
    ),
    Variable(name="NEWSLETTER_SMTP_PASSWORD", help="The password of the smtp provider's account."),
)


@dataclass(frozen=True, kw_only=True)
class Sender:
    name: Text
    address: str
    reply_to: str | None
    unsubscribe: str | None


@dataclass(frozen=True, kw_only=True)
class Smtp:
    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    username: str
    connections: int
    timeout: int  # seconds
    bounces: str  # a domain, or ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the workspace says about itself. `root` is its folder; `marks` where each setting stands."""

    root: Path
    title: Text
    tagline: Text
    sender: Sender
    postal_address: Text
    languages: tuple[str, ...]
    missing_translation: Literal["fallback", "omit", "error"]
    week_ends: str
    group_by: Literal["auto", "date", "section"]
    sections: Mapping[str, Text]
    base_url: str
    images: Literal["link", "embed"]
    list: str
    provider: str
    outbox: Path
    smtp: Smtp | None = None
    recorders: Path = Path("subscribers/recorders")
    grace: int = 3600  # seconds
    retention: int = 730  # days; 0: for ever
    database_url: str = field(default="", repr=False)  # "": SQLite at `database`
    secret_key: str = field(default="", repr=False)
    retired_keys: tuple[str, ...] = field(default=(), repr=False)
    pepper: str = field(default="", repr=False)
    marks: Mapping[str, Where] = field(default_factory=dict, repr=False, compare=False)
    remarks: tuple[Finding, ...] = field(default=(), repr=False, compare=False)  # doubts of the reader, no errors

    @property
    def default_language(self) -> str:
        return self.languages[0]

    @property
    def database(self) -> Path:
        """The SQLite file, where DATABASE_URL names no other database."""
        return self.root / "subscribers" / "newsletter.sqlite3"

    @property
    def lists(self) -> Path:
        return self.root / "subscribers" / "lists.yaml"

    @property
    def issues(self) -> Path:
        return self.root / "issues"

    @property
    def templates(self) -> Path:
        return self.root / "templates"

    def shown(self, path: Path) -> str:
        """The path as messages name it: relative to the current folder where it lies below it, else as it is."""
        return _shown(path)


def _shown(path: Path) -> str:
    try:
        name = os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    except (OSError, RuntimeError, ValueError):  # a name too long, a link that leads back to itself, a NUL
        name = str(path)
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def find_workspace(start: Path) -> Path:
    """The nearest folder at or above `start` that holds newsletter.yaml; ConfigError where none does."""
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return start if folder == here else folder
    help = "go to your workspace, name it with --workspace DIR, or make one: newsletter init DIR"
    where = Where(path=str(start))
    message = f"no {FILE} here or in any folder above"
    raise ConfigError([Finding(code="config.no-workspace", severity="error", where=where, message=message, help=help)])


def load_config(root: Path, environ: Mapping[str, str] | None = None) -> Config:
    """The workspace's configuration, or ConfigError with every problem of newsletter.yaml, .env and the environment."""
    name = _shown(root / FILE)
    text, findings = read_text(root / FILE, name=name, family="config")
    reading = Reading(family="config", languages=(), findings=findings)
    if not findings:
        node, found = parse(text, name, family="config")
        findings += found
        if node is None and not found:
            reading.report("empty", Where(path=name), "is empty", "see docs/settings.md, or start from newsletter init")
        elif node is not None:
            reading = Reading(family="config", languages=_languages(node, reading), findings=findings)
            if reading.failed:  # each text would be judged by languages that are wrong themselves
                raise ConfigError(reading.findings)
            record = read_record(node, CONFIG, reading)
            variables = _environment(root, os.environ if environ is None else environ, reading)
            values = dict(record.values)
            _check_base_url(values["base_url"], "base_url", record.marks.get("base_url"), reading)
            _check_ways_out(values, record.marks, reading)
            if variables.get("NEWSLETTER_BASE_URL"):
                values["base_url"] = variables["NEWSLETTER_BASE_URL"]
            if not reading.failed:
                return _config(root, values, variables, record.marks, tuple(reading.findings))
    raise ConfigError(reading.findings)


def _languages(node: Any, reading: Reading) -> tuple[str, ...]:
    """The languages, read before everything else: each text of the configuration is checked against them."""
    entry = node.get("languages") if isinstance(node, Map) else None
    if entry is None:
        return ("en",)
    shape = Shape(name="languages", fields=tuple(each for each in CONFIG.fields if each.name == "languages"))
    only = Map(entries=(entry,), where=node.where, flow=False)
    languages: tuple[str, ...] = read_record(only, shape, reading)["languages"]
    return languages


def _config(
    root: Path,
    values: dict[str, Any],
    variables: Mapping[str, str],
    marks: Mapping[str, Where],
    remarks: tuple[Finding, ...],
) -> Config:
    sender = values["sender"]
    return Config(
        root=root,
        title=values["title"],
        tagline=values["tagline"] or {},
        sender=Sender(**sender.values),
        postal_address=values["postal_address"] or {},
        languages=tuple(dict.fromkeys(values["languages"])),
        missing_translation=values["missing_translation"],
        week_ends=values["week_ends"],
        group_by=values["group_by"],
        sections=values["sections"],
        base_url=values["base_url"].rstrip("/"),
        images=values["images"],
        list=values["list"],
        provider=values["provider"],
        outbox=root / values["outbox"],
        smtp=_smtp(values["smtp"].values, variables) if values["smtp"] else None,
        recorders=root / values["recorders"],
        grace=values["grace"],
        retention=values["retention"],
        database_url=variables.get("DATABASE_URL", ""),
        secret_key=variables.get("NEWSLETTER_SECRET_KEY", ""),
        retired_keys=tuple(variables.get("NEWSLETTER_RETIRED_KEYS", "").split()),
        pepper=variables.get("NEWSLETTER_PEPPER", ""),
        marks=marks,
        remarks=remarks,
    )


def _smtp(values: Mapping[str, Any], variables: Mapping[str, str]) -> Smtp:
    security = values["security"]
    if security == "auto":
        security = "none" if values["host"] in LOOPBACK else "starttls"
    port = values["port"] or (465 if security == "tls" else 587)
    password = variables.get("NEWSLETTER_SMTP_PASSWORD", "")
    return Smtp(**{**values, "security": security, "port": port, "password": password})


LOOPBACK = ("localhost", "127.0.0.1", "::1")

_LINE = re.compile(r"""(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*("[^"]*"|'[^']*'|[^\s"'#].*?|)(?:\s+#.*)?""")


def _environment(root: Path, environ: Mapping[str, str], reading: Reading) -> dict[str, str]:
    """Our variables: those of .env, under those of the environment. Names of ours that do not exist are reported."""
    known = [each.name for each in ENVIRONMENT]
    found: dict[str, str] = {}
    path = root / ".env"
    places: dict[str, Where] = {}
    if path.is_file():
        text, findings = read_text(path, name=_shown(path), family="config")
        reading.findings.extend(findings)
        for number, line in enumerate(text.split("\n"), 1):
            where = Where(path=_shown(path), line=number)
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:
                help = "write one NAME=value in a line, quotes around all of the value or none; # begins a comment"
                reading.report("env", where, "is not NAME=value", help)
                continue
            name, value = match.groups()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[name], places[name] = value, where
    for name, value in environ.items():
        if (name.startswith("NEWSLETTER_") or name in known) and value:
            found[name], places[name] = value, Where(path="the environment")
    for name in found:
        if name.startswith("NEWSLETTER_") and name not in known:
            help = f"known variables: {', '.join(known)}"
            reading.report("env", places[name], f"{name}: unknown variable{nearest(name, known)}", help)
    for name in ("NEWSLETTER_SECRET_KEY", "NEWSLETTER_RETIRED_KEYS", "NEWSLETTER_PEPPER"):
        value = found.get(name, "")
        secrets = value.split() if name == "NEWSLETTER_RETIRED_KEYS" else [value] if value else []
        if any(len(secret) < 32 for secret in secrets):
            help = 'make one: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
            reading.report("env", places[name], f"{name}: shorter than 32 characters", help)
    if found.get("DATABASE_URL") and not _is_postgresql(found["DATABASE_URL"]):
        help = "write postgresql://user:password@host/name, or leave it out for SQLite"
        reading.report("env", places["DATABASE_URL"], "DATABASE_URL: not a PostgreSQL address", help)
    if found.get("NEWSLETTER_BASE_URL"):
        node = Scalar(text=found["NEWSLETTER_BASE_URL"], where=places["NEWSLETTER_BASE_URL"], plain=False)
        setting = cast("Field", CONFIG.field("base_url"))
        found["NEWSLETTER_BASE_URL"] = read_value(node, setting, reading, at="NEWSLETTER_BASE_URL") or ""
        _check_base_url(found["NEWSLETTER_BASE_URL"], "NEWSLETTER_BASE_URL", node.where, reading)
    return found


def _is_postgresql(url: str) -> bool:
    try:
        port = urlsplit(url).port
    except ValueError:  # no number, or larger than a port may be; brackets of an IPv6 address that do not match
        return False
    return port != 0 and bool(re.match("postgres(ql)?://[^/]", url))


def _check_ways_out(values: Mapping[str, Any], marks: Mapping[str, Where], reading: Reading) -> None:
    if values["provider"] == "smtp" and not values["smtp"]:
        help = "add smtp: {host: smtp.example.org}, see docs/settings.md"
        reading.report("missing", marks["provider"], "provider: smtp needs the settings of `smtp`", help)
    if values["smtp"]:
        record = values["smtp"]
        for name, least, most in (("port", 0, 65535), ("connections", 1, 100), ("timeout", 1, 3600)):
            if not least <= record[name] <= most:
                where = record.marks.get(name, record.where)
                reading.report("value", where, f"smtp.{name}: {record[name]}", f"write a number from {least} to {most}")
    for name in ("grace", "retention"):
        if values[name] < 0:
            reading.report("value", marks[name], f"{name}: less than nothing", "write 0 or a larger number")


def _check_base_url(url: str | None, at: str, where: Where | None, reading: Reading) -> None:
    """Every link is this address and a path: what follows ? or # would swallow the path."""
    if url and where and re.search("[?#]", url):
        reading.report("value", where, f"{at}: cannot have a ? or a #", "end it before that sign")
    # The host names the list as well (RFC 2919), which takes neither an IPv6 address nor letters outside ASCII.
    elif url and where and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", urlsplit(url).hostname or ""):
        reading.report("value", where, f"{at}: must have a host name in ASCII", "write its xn--… form")
