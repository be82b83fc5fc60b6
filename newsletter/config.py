"""The workspace and its configuration: newsletter.yaml, the environment and .env, read once into one frozen object."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from newsletter.errors import ConfigError, Finding, Where
from newsletter.shape import Field, Reading, Record, Shape, Text, nearest, read_record, read_value
from newsletter.source import Map, Scalar, parse, read_text, visible

FILE = "newsletter.yaml"

# Messages per hour and per day. Sources: help.brevo.com (free plan), support.google.com/a/answer/166852 (Gmail sending
# limits), and what providers of shared web space commonly allow.
PLANS: Mapping[str, Mapping[str, int]] = {
    "brevo-free": {"per_day": 300},
    "google-workspace": {"per_day": 2000},
    "shared-hosting": {"per_hour": 100},
}

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

WARM_UP = Shape(
    name="warm-up",
    fields=(
        Field(name="first_day", kind="integer", required=True, help="How many messages may leave on the first day."),
        Field(
            name="growth",
            kind="integer",
            default=50,
            help="How many percent more may leave on each further day, until the daily cap is reached. 1 to 1000.",
        ),
        Field(
            name="days",
            kind="integer",
            default=30,
            help="After so many days the warm-up is over, cap or no cap. 1 to 365.",
        ),
    ),
)

PACE = Shape(
    name="pace",
    fields=(
        Field(
            name="plan",
            kind="choice",
            choices=tuple(sorted(PLANS)),
            help="The caps of a well-known plan: `brevo-free` 300 a day, `google-workspace` 2,000 a day, "
            "`shared-hosting` 100 an hour. A cap beside it replaces the plan's.",
        ),
        Field(
            name="per_second", kind="number", default=0.0, help="How many messages may leave in a second. 0: no limit."
        ),
        Field(
            name="per_hour",
            kind="integer",
            default=0,
            help="How many messages may leave in any 60 minutes. 0: no limit.",
        ),
        Field(
            name="per_day", kind="integer", default=0, help="How many messages may leave in any 24 hours. 0: no limit."
        ),
        Field(
            name="warm_up",
            kind=WARM_UP,
            help="A slow start, for a domain or an address from which mail providers have seen little yet.",
            example="warm_up: {first_day: 200}",
        ),
        Field(
            name="oneoff",
            kind="integer",
            default=10,
            help="How many percent of every cap issues leave to single mail (confirmations, tests). 0 to 90.",
        ),
    ),
)

_PACE_FIELD = Field(
    name="pace",
    kind=PACE,
    help="How much may leave, counted over all workers.",
    example="pace: {per_hour: 100}",
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
        _PACE_FIELD,
    ),
)

SENDGRID = Shape(
    name="sendgrid",
    fields=(
        Field(
            name="region",
            kind="choice",
            choices=("global", "eu"),
            default="global",
            help="Where the account is: `eu` sends through api.eu.sendgrid.com. The key is NEWSLETTER_SENDGRID_KEY.",
        ),
        Field(name="connections", kind="integer", default=8, help="How many requests are made at one time, 1 to 100."),
        Field(name="timeout", kind="integer", default=60, help="How many seconds to wait for an answer."),
        _PACE_FIELD,
    ),
)

SERVICES = (
    "brevo",
    "mailersend",
    "mailgun",
    "mailjet",
    "mailtrap",
    "mandrill",
    "postal",
    "postmark",
    "resend",
    "scaleway",
    "ses",
    "sparkpost",
    "unisender",
)

ANYMAIL = Shape(
    name="anymail",
    fields=(
        Field(
            name="service",
            kind="choice",
            choices=SERVICES,
            required=True,
            help="The mail service. Its key is NEWSLETTER_ANYMAIL_KEY; NEWSLETTER_ANYMAIL_SECRET is a second one, "
            "where the service has two (mailjet, scaleway, ses).",
        ),
        Field(
            name="domain",
            kind="string",
            default="",
            help="The sending domain as the service knows it (mailgun). Default: that of the sender's address.",
        ),
        Field(
            name="region",
            kind="word",
            default="",
            help="Where the account is, for services that tell regions apart: `eu`, `us`, or one of Amazon's, such as "
            "`eu-west-1`.",
        ),
        Field(name="url", kind="url", help="The address of the service's API, where it is your own (postal)."),
        Field(
            name="connections",
            kind="integer",
            default=16,
            help="How many requests are made at one time, 1 to 100.",
        ),
        Field(name="timeout", kind="integer", default=60, help="How many seconds to wait for an answer."),
        _PACE_FIELD,
    ),
)

# A further way out: exactly one of them is there.
WAY = Shape(
    name="way out",
    fields=(
        Field(name="smtp", kind=SMTP, help="A mail server. Its password is NEWSLETTER_<NAME>_PASSWORD."),
        Field(name="sendgrid", kind=SENDGRID, help="SendGrid. Its key is NEWSLETTER_<NAME>_KEY."),
        Field(
            name="anymail", kind=ANYMAIL, help="Another mail service. Its keys are NEWSLETTER_<NAME>_KEY and _SECRET."
        ),
        Field(name="outbox", kind="string", help="A folder on this machine."),
    ),
)

DKIM = Shape(
    name="dkim",
    fields=(
        Field(
            name="selectors",
            kind="word",
            many=True,
            required=True,
            help="The names of the keys to sign with, as `newsletter dkim new` made them: an RSA key, and perhaps an "
            "Ed25519 one beside it.",
        ),
        Field(
            name="domain",
            kind="string",
            default="",
            help="The domain that signs. Default: that of the sender's address, which DMARC wants.",
        ),
    ),
)

WEB = Shape(
    name="web",
    fields=(
        Field(
            name="proxies",
            kind="string",
            many=True,
            default=("127.0.0.0/8", "::1"),
            help="The networks of your reverse proxies: what they say of a visitor's address (X-Forwarded-For) is "
            "believed.",
            example="proxies: [10.0.0.0/8]",
        ),
        Field(
            name="per_network",
            kind="integer",
            default=20,
            help="After so many sign-ups within an hour from one network (an IPv4 /24, an IPv6 /48), a further one "
            "has to bring a proof of work, which a browser makes by itself, or waits. Ten times as many are refused.",
        ),
        Field(
            name="per_minute",
            kind="integer",
            default=60,
            help="The same for all sign-ups together, within a minute.",
        ),
        Field(
            name="delay",
            kind="integer",
            default=600,
            help="So many seconds waits a confirmation mail that the rate of sign-ups holds back.",
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
            kind="word",
            default="outbox",
            help="The way out for messages: `outbox`, `smtp`, `sendgrid`, `anymail`, or a name of `providers`.",
        ),
        Field(
            name="fallback",
            kind="word",
            many=True,
            default=(),
            help="The ways out to take, in this order, while `provider` cannot be reached.",
            example="fallback: [relay]",
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
            name="sendgrid",
            kind=SENDGRID,
            help="The account of the sendgrid provider. May be left out: its key is NEWSLETTER_SENDGRID_KEY.",
            example="sendgrid: {region: eu}",
        ),
        Field(
            name="anymail",
            kind=ANYMAIL,
            help="The mail service of the anymail provider, which needs `pip install 'newsletter[anymail]'`.",
            example="anymail: {service: postmark}",
        ),
        Field(
            name="providers",
            kind=WAY,
            keyed=True,
            default={},
            help="Further ways out by name, for `provider` and `fallback`.",
            example="providers: {relay: {smtp: {host: relay.example.org}}}",
        ),
        Field(
            name="dkim",
            kind=DKIM,
            help="Sign what leaves by SMTP. The keys are in subscribers/dkim.",
            example="dkim: {selectors: [s1]}",
        ),
        Field(
            name="engine",
            kind="choice",
            choices=("local", "cluster"),
            default="local",
            help="Who does the work in the background. `local`: each worker does everything. `cluster`: workers on any "
            "number of machines share it (PostgreSQL only, `pip install 'newsletter[postgres]'`).",
        ),
        Field(
            name="web",
            kind=WEB,
            help="The pages for members: `newsletter serve`.",
            example="web: {per_network: 50}",
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
    Variable(name="NEWSLETTER_SENDGRID_KEY", help="The API key of the sendgrid provider."),
    Variable(name="NEWSLETTER_ANYMAIL_KEY", help="The API key (token, server token …) of the anymail provider."),
    Variable(
        name="NEWSLETTER_ANYMAIL_SECRET", help="The second key of the anymail provider, where its service has two."
    ),
)
# Ways out of `providers` have such variables too, under their own names.
_SECRETS = {"smtp": ("PASSWORD",), "sendgrid": ("KEY",), "anymail": ("KEY", "SECRET"), "outbox": ()}


@dataclass(frozen=True, kw_only=True)
class Sender:
    name: Text
    address: str
    reply_to: str | None
    unsubscribe: str | None


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    first_day: int
    growth: int = 50  # percent a day
    days: int = 30


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many messages may leave through a way out, in any span of that length. 0: no limit."""

    per_second: float = 0.0
    per_hour: int = 0
    per_day: int = 0
    warm_up: WarmUp | None = None
    oneoff: int = 10  # percent of every cap that issues leave to single mail

    def __bool__(self) -> bool:
        return bool(self.per_second or self.per_hour or self.per_day or self.warm_up)


NO_CAPS = Pace()


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
    pace: Pace = NO_CAPS


@dataclass(frozen=True, kw_only=True)
class Sendgrid:
    region: Literal["global", "eu"] = "global"
    connections: int = 8
    timeout: int = 60  # seconds
    key: str = field(default="", repr=False)
    pace: Pace = NO_CAPS


@dataclass(frozen=True, kw_only=True)
class Anymail:
    service: str  # one of SERVICES
    domain: str = ""
    region: str = ""
    url: str = ""
    connections: int = 16
    timeout: int = 60  # seconds
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    pace: Pace = NO_CAPS


@dataclass(frozen=True, kw_only=True)
class Dkim:
    selectors: tuple[str, ...]
    domain: str  # "": that of the sender's address
    keys: Path  # the folder of <selector>.pem


@dataclass(frozen=True, kw_only=True)
class Web:
    proxies: tuple[str, ...] = ("127.0.0.0/8", "::1")  # networks
    per_network: int = 20  # sign-ups an hour
    per_minute: int = 60  # sign-ups
    delay: int = 600  # seconds


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way out: its name in newsletter.yaml, and the settings of its kind; the path of an outbox."""

    name: str
    settings: Path | Smtp | Sendgrid | Anymail

    @property
    def pace(self) -> Pace:
        return NO_CAPS if isinstance(self.settings, Path) else self.settings.pace


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
    outbox: Path
    ways: tuple[Way, ...] = ()  # in the order in which they are taken
    spare: tuple[Way, ...] = ()  # those that newsletter.yaml sets up and neither `provider` nor `fallback` names
    smtp: Smtp | None = None
    dkim: Dkim | None = None
    web: Web = Web()
    engine: Literal["local", "cluster"] = "local"
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
    def provider(self) -> str:
        """The name of the first way out."""
        return self.ways[0].name

    @property
    def route(self) -> str:
        """The names of the ways out in their order, a comma between: what a mailing is opened to leave through."""
        return ",".join(way.name for way in self.ways)

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
            values = dict(record.values)
            secrets = _secret_variables(values["providers"])
            variables = _environment(root, os.environ if environ is None else environ, reading, secrets)
            if values["engine"] == "cluster" and not variables.get("DATABASE_URL"):
                help = "name a PostgreSQL database in DATABASE_URL, or leave `engine` out"
                reading.report("value", record.marks["engine"], "engine: cluster needs PostgreSQL", help)
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
    ways = _ways(root, values, variables)
    taken = dict.fromkeys((values["provider"], *values["fallback"]))
    set_up = [*(kind for kind in ("smtp", "sendgrid", "anymail") if values[kind]), *values["providers"]]
    dkim = values["dkim"]
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
        outbox=root / values["outbox"],
        ways=tuple(ways[name] for name in taken),
        spare=tuple(ways[name] for name in set_up if name not in taken),
        smtp=_smtp(values["smtp"].values, variables, "SMTP") if values["smtp"] else None,
        dkim=Dkim(**dkim.values, keys=root / "subscribers" / "dkim") if dkim else None,
        web=Web(**values["web"].values) if values["web"] else Web(),
        engine=values["engine"],
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


def _ways(root: Path, values: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Way]:
    """Every way out that newsletter.yaml tells of, by name; those of a kind's own name among them."""
    kinds: dict[str, tuple[str, Any]] = {"outbox": ("outbox", values["outbox"]), "sendgrid": ("sendgrid", None)}
    kinds |= {kind: (kind, values[kind]) for kind in ("smtp", "sendgrid", "anymail") if values[kind]}
    for name, record in values["providers"].items():
        kinds[name] = next((kind, value) for kind, value in record.values.items() if value)
    return {name: Way(name=name, settings=_settings(root, name, *each, variables)) for name, each in kinds.items()}


def _settings(
    root: Path, name: str, kind: str, value: Any, variables: Mapping[str, str]
) -> Path | Smtp | Sendgrid | Anymail:
    if kind == "outbox":
        return root.joinpath(value)
    stem = secret_stem(name)
    if kind == "smtp":
        return _smtp(value.values, variables, stem)
    settings = dict(value.values) if value else {}
    settings["pace"] = _pace(settings.get("pace"))
    settings["key"] = variables.get(f"NEWSLETTER_{stem}_KEY", "")
    if kind == "sendgrid":
        return Sendgrid(**settings)
    return Anymail(
        **{**settings, "url": settings["url"] or "", "secret": variables.get(f"NEWSLETTER_{stem}_SECRET", "")}
    )


def _smtp(values: Mapping[str, Any], variables: Mapping[str, str], stem: str) -> Smtp:
    security = values["security"]
    if security == "auto":
        security = "none" if values["host"] in LOOPBACK else "starttls"
    port = values["port"] or (465 if security == "tls" else 587)
    password = variables.get(f"NEWSLETTER_{stem}_PASSWORD", "")
    pace = _pace(values["pace"])
    return Smtp(**{**values, "security": security, "port": port, "password": password, "pace": pace})


def _pace(record: Record | None) -> Pace:
    if record is None:
        return NO_CAPS
    values = dict(record.values)
    plan = values.pop("plan")
    values |= {cap: number for cap, number in (PLANS[plan] if plan else {}).items() if cap not in record.marks}
    warm_up = values.pop("warm_up")
    return Pace(**values, warm_up=WarmUp(**warm_up.values) if warm_up else None)


def secret_stem(name: str) -> str:
    """The part of an environment variable's name that stands for a way out: "RELAY_2" for relay-2."""
    return name.upper().replace("-", "_")


LOOPBACK = ("localhost", "127.0.0.1", "::1")

_LINE = re.compile(r"""(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*("[^"]*"|'[^']*'|[^\s"'#].*?|)(?:\s+#.*)?""")


def _secret_variables(providers: Mapping[str, Record]) -> list[str]:
    """The environment variables that the ways out of `providers` have."""
    kinds = [(name, kind) for name, record in providers.items() for kind, value in record.values.items() if value]
    return [f"NEWSLETTER_{secret_stem(name)}_{secret}" for name, kind in kinds for secret in _SECRETS[kind]]


def _environment(root: Path, environ: Mapping[str, str], reading: Reading, secrets: Iterable[str]) -> dict[str, str]:
    """Our variables: those of .env, under those of the environment. Names of ours that do not exist are reported."""
    known = [*(each.name for each in ENVIRONMENT), *secrets]
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


_LONGEST_ROUTE = 64  # octets of Mailing.provider
_WAY_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_RANGES = {
    "smtp": (("port", 0, 65535), ("connections", 1, 100), ("timeout", 1, 3600)),
    "sendgrid": (("connections", 1, 100), ("timeout", 1, 3600)),
    "anymail": (("connections", 1, 100), ("timeout", 1, 3600)),
    "pace": (("oneoff", 0, 90),),
    "warm_up": (("first_day", 1, 10**9), ("growth", 1, 1000), ("days", 1, 365)),
    "web": (("per_network", 1, 10**9), ("per_minute", 1, 10**9), ("delay", 0, 86400)),
}


def _check_ways_out(values: Mapping[str, Any], marks: Mapping[str, Where], reading: Reading) -> None:
    for kind in ("smtp", "sendgrid", "anymail"):
        _check_ranges(values[kind], kind, kind, reading)
    for name, record in values["providers"].items():
        at = f"providers.{name}"
        given = [kind for kind, value in record.values.items() if value]
        if len(given) != 1:
            help = "write smtp:, sendgrid:, anymail: or outbox: below it, and only one of them"
            reading.report("value", record.where, f"{at}: must be one way out, is {len(given)}", help)
        for kind in given:
            if kind != "outbox":
                _check_ranges(record[kind], kind, f"{at}.{kind}", reading)
        if name in _SECRETS or not _WAY_NAME.fullmatch(name):
            help = "write up to 20 of a-z, 0-9 and -, and no name of a kind; or set that kind beside `providers`"
            reading.report("value", record.where, f"{at}: cannot be called so", help)
        elif taken := {each.name for each in ENVIRONMENT}.intersection(_secret_variables({name: record})):
            message = f"{at}: cannot be called so, since {', '.join(taken)} is something else"
            reading.report("value", record.where, message, "give it another name")
    known = ["outbox", "sendgrid", *(kind for kind in ("smtp", "anymail") if values[kind]), *values["providers"]]
    for setting, names in (("provider", (values["provider"],)), ("fallback", values["fallback"])):
        for name in names:
            if name in known:
                continue
            if name in ("smtp", "anymail"):
                example = f"{name}: {{{'host: smtp.example.org' if name == 'smtp' else 'service: postmark'}}}"
                help = f"add {example}, see docs/settings.md"
                reading.report("missing", marks[setting], f"{setting}: {name} needs the settings of `{name}`", help)
            else:
                help = f"known ways out: {', '.join(known)}; `providers` makes others"
                message = f"{setting}: there is no way out {_quoted(name)}{nearest(name, known)}"
                reading.report("value", marks[setting], message, help)
    outboxes = {"outbox", *(name for name, record in values["providers"].items() if record["outbox"])}
    swallowing = [name for name in (values["provider"], *values["fallback"]) if name in outboxes]
    if swallowing and not outboxes.issuperset((values["provider"], *values["fallback"])):
        message = f"fallback: {swallowing[0]} is a folder, which reaches nobody, and what it takes counts as sent"
        help = "take ways out that all reach people, or folders only"
        reading.report("value", marks["fallback"], message, help)
    if len(",".join((values["provider"], *values["fallback"]))) > _LONGEST_ROUTE:
        reading.report(
            "value", marks["fallback"], "fallback: too many ways out", "give them shorter names, or leave some out"
        )
    _check_ranges(values["web"], "web", "web", reading)
    for network in values["web"]["proxies"] if values["web"] else ():
        try:
            ip_network(network)
        except ValueError:
            where = values["web"].marks.get("proxies", values["web"].where)
            message = f"web.proxies: {_quoted(network)} is no network"
            reading.report("value", where, message, "write an address or a network: 10.0.0.7, 10.0.0.0/8")
    for name in ("grace", "retention"):
        if values[name] < 0:
            reading.report("value", marks[name], f"{name}: less than nothing", "write 0 or a larger number")


def _check_ranges(record: Record | None, kind: str, at: str, reading: Reading) -> None:
    if not record:
        return
    for name, least, most in _RANGES[kind]:
        if record[name] is not None and not least <= record[name] <= most:
            where = record.marks.get(name, record.where)
            reading.report("value", where, f"{at}.{name}: {record[name]}", f"write a number from {least} to {most}")
    for inner in ("pace", "warm_up"):
        if inner in record.values:
            _check_ranges(record[inner], inner, f"{at}.{inner}", reading)


def _quoted(text: str) -> str:
    return f'"{visible(text, longest=40)}"'


def _check_base_url(url: str | None, at: str, where: Where | None, reading: Reading) -> None:
    """Every link is this address and a path: what follows ? or # would swallow the path."""
    if url and where and re.search("[?#]", url):
        reading.report("value", where, f"{at}: cannot have a ? or a #", "end it before that sign")
    # The host names the list as well (RFC 2919), which takes neither an IPv6 address nor letters outside ASCII.
    elif url and where and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", urlsplit(url).hostname or ""):
        reading.report("value", where, f"{at}: must have a host name in ASCII", "write its xn--… form")
