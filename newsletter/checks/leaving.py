"""What must be right before anything leaves this machine: links that lead back here, a sender, a postal address.

Every link in a message begins with base_url, and the way to leave is one of them. So the address must be one that
readers can open, and what answers there must be this very workspace: a database that is not the one behind the address
would mail people whose unsubscribe links nobody understands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from newsletter.config import Config
from newsletter.content.fetch import Fetched, Limits, fetch
from newsletter.errors import Finding, InputError, Severity

WELL_KNOWN = "/.well-known/newsletter"  # RFC 8615
SECONDS = 8.0  # for the whole answer
LARGEST = 4_096  # octets of it

# RFC 2606 and RFC 6761 keep these for examples and for networks at home; `internal` was kept by ICANN in 2024.
NOBODYS = ("example", "invalid", "test")
EXAMPLES = ("example.com", "example.net", "example.org")
INNER = ("local", "localhost", "internal", "home.arpa", "lan", "onion")

Ask = Callable[[str], Fetched]
"""Fetches a URL; raises `InputError` when it does not answer 200."""


def identity_file(store: str) -> str:
    """What `WELL_KNOWN` answers: the database's id. A file that any web server can serve."""
    return json.dumps({"id": store}) + "\n"


def ask(url: str) -> Fetched:
    """Asks the web. Addresses inside our own network are fine: base_url is ours, and may well lead to this machine."""
    port = urlsplit(url).port or 443
    ports = frozenset({80, 443, port})
    return fetch(url, Limits(allow=lambda _: True, ports=ports, seconds=SECONDS, redirects=2, bytes=LARGEST))


def check_leaving(config: Config, *, store: str, ask: Ask = ask) -> Iterator[Finding]:
    """Errors that keep mail from leaving, and doubts; `store` is the id of our database. Takes up to `SECONDS`.

    Codes: `leaving.base-url`, `leaving.identity`, `leaving.sender`, `leaving.postal-address`.
    """
    yield from check_identity(config, store=store, ask=ask)
    yield from check_settings(config)


def check_settings(config: Config) -> Iterator[Finding]:
    """What of `check_leaving` newsletter.yaml alone tells: base_url, sender, postal address."""
    problem = _not_public(config.base_url)
    if problem:
        help = "links in messages begin with it: write the https address at which readers reach your pages"
        yield _finding("base-url", config, "base_url", f"base_url: {config.base_url} {problem}", help)
    domain = config.sender.address.rpartition("@")[2].lower()
    if "." not in domain or _under(domain, NOBODYS) or _under(domain, INNER):
        message = f"sender.address: {domain or 'nothing'} is no domain that mail can come from"
        yield _finding("sender", config, "sender", message, "write an address of a domain of your own")
    elif _under(domain, EXAMPLES):  # it has a mail server nowhere, but a test bed may say so
        message = f"sender.address: {domain} is the sample's, and most mail servers will refuse it"
        yield _finding(
            "sender", config, "sender", message, "write an address of a domain of your own", severity="warning"
        )
    if not any(text.strip() for text in config.postal_address.values()):
        help = "write postal_address: in newsletter.yaml; many laws ask for one"
        yield _finding("postal-address", config, "title", "there is no postal address for the footer", help)


def _finding(
    code: str, config: Config, setting: str, message: str, help: str, *, severity: Severity = "error"
) -> Finding:
    where = config.marks.get(setting)
    return Finding(code=f"leaving.{code}", severity=severity, where=where, message=message, help=help)


def _under(host: str, names: tuple[str, ...]) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in names)


def _not_public(url: str) -> str:
    """What keeps readers from opening an address, or ""."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme != "https":
        return "is not https"
    if _is_address(host):
        return "is a number and no name"
    if _under(host, INNER) or "." not in host:
        return "is a name inside a network, which nobody else can open"
    if _under(host, NOBODYS):
        return "is a name for examples, which belongs to nobody"
    return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host.rpartition(".")[2].isdigit()  # 127.1, which many programs read as an address
    return True


def check_identity(config: Config, *, store: str, ask: Ask = ask) -> Iterator[Finding]:
    """Whether what answers at base_url is this workspace. Nothing is asked when it is no public address."""
    if _not_public(config.base_url):
        return
    url = f"{config.base_url}{WELL_KNOWN}"
    help = f"let {url} answer with this one line (a plain file will do): {identity_file(store).strip()}"
    try:
        answer = ask(url)
    except InputError as error:
        message = f"{url} {error.findings[0].message}"
        yield _finding("identity", config, "base_url", message, help)
        return
    asked, came = urlsplit(url), urlsplit(answer.url)
    if (came.scheme, came.netloc.lower()) != (asked.scheme, asked.netloc.lower()):
        message = f"{url} leads to another place, {came.scheme}://{came.netloc}"
        yield _finding("identity", config, "base_url", message, f"name that place in base_url, or {help}")
        return
    try:
        told = json.loads(answer.body)["id"]
    except (ValueError, LookupError, TypeError):
        yield _finding("identity", config, "base_url", f"{url} answers something else than a workspace's id", help)
        return
    if told != store:
        message = f"{url} answers with the id of another database than this one"
        step = f"use that database (DATABASE_URL), correct base_url, or {help}"
        yield _finding("identity", config, "base_url", message, step)
