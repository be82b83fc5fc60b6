"""Every public address with whatever may be sent to it: never a fault, never a cookie, always the guards.

First by schemathesis, from a description of the addresses (openapi.yaml), with tokens that are real every other time;
then by requests that no description allows, through the door and, octet by octet, at the real server.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience import editions
from members import ISSUE, keys_of
from newsletter.config import Config
from pages import Answer, Pages
from web_server import PATIENCE, Served, served

DESCRIPTION = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text("utf-8"))
FOUND: Any = schemathesis.openapi.from_dict(DESCRIPTION).get_all_operations()
OPERATIONS = [each.ok() for each in FOUND]
ANA = "ana@example.org"
FORM = "application/x-www-form-urlencoded"

many = settings(max_examples=25, suppress_health_check=[*HealthCheck])


@pytest.fixture
def pages(store: Config) -> Pages:
    return Pages(replace(store, web=replace(store.web, per_minute=10**6, per_network=10**6)), inbox=True)


@pytest.fixture
def tokens(pages: Pages, store: Config) -> Mapping[str, str]:
    """A member's tokens by their purpose, and that of an issue which is not public; another issue is."""
    from newsletter.store import mailings, models

    own = keys_of(store, ANA)
    list = models.List.objects.get(name="weekly")
    for issue, private in ((ISSUE, False), ("2017-11-26", True)):
        sent = {code: replace(each, private=private) for code, each in editions(key=issue).items()}
        opened = mailings.open_mailing(sent, issue=issue, list=list.pk, default_language="en", provider="outbox")
        while mailings.write_down(opened.mailing):
            pass
    edition = models.Edition.objects.get(language="en", mailing__round__issue="2017-11-26")
    return {**own, "view": pages.site.keyring.token("view", edition.pk)}


def looked_over(answer: Answer, what: str) -> Answer:
    """What holds for every answer."""
    headers = answer.headers
    assert answer.status < 500, what
    assert "set-cookie" not in headers, what
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["strict-transport-security"].startswith("max-age=")
    assert "cache-control" in headers
    directives = [each.split() for each in headers["content-security-policy"].split(";") if each.strip()]
    rules = {name: " ".join(sources) for name, *sources in directives}
    assert rules["default-src"] == "'none'", what
    assert rules["base-uri"] == "'none'"
    assert "unsafe" not in rules.get("script-src", "") + rules.get("default-src", "")
    is_mail = re.match(r"GET /(inbox/[^/]+/html|archive/[^/]+/[^/]+/|v/)", what)  # a mail's own style
    if not is_mail:
        assert "unsafe-inline" not in headers["content-security-policy"], what
        assert rules["frame-ancestors"] == "'none'"
    assert "frame-ancestors" in rules
    location = urlsplit(headers.get("location", ""))
    assert not location.netloc, what
    assert not location.scheme
    assert not location.path.startswith("//")
    return answer


# --- what the description allows --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_sqlite")  # configures Django
def test_the_description_has_every_address_of_the_pages() -> None:
    from django.urls import resolve

    from newsletter.web.urls import urlpatterns

    samples = {"language": "en", "issue": ISSUE, "number": "2", "name": f"{'0' * 32}.png", "token": "x", "id": "x"}
    found = {resolve(path.format_map(samples)).route for path in DESCRIPTION["paths"]}
    assert found == {str(each.pattern) for each in urlpatterns}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_nothing_that_the_description_allows_is_a_fault(
    pages: Pages, tokens: Mapping[str, str], operation: Any
) -> None:
    purpose = next((each.definition.get("x-purpose", "") for each in operation.path_parameters), "")
    stamp = pages.site.keyring.token("form", _long_ago())

    @many
    @given(operation.as_strategy(), st.booleans(), st.sampled_from([FORM, "multipart/form-data", "text/plain", ""]))
    def ask(case: Any, real: bool, otherwise: str) -> None:
        path = case.path
        for name, value in (case.path_parameters or {}).items():
            text = tokens[purpose] if real and name == "token" else str(value)
            path = path.replace(f"{{{name}}}", quote(text.encode("utf-8", "surrogatepass"), safe=""))
        body = b""
        if isinstance(case.body, dict):
            fields = {**case.body, **({"time": stamp, "email": ANA} if real and "time" in repr(operation) else {})}
            body = _encoded(fields)
        query = _encoded(case.query or {}).decode("ascii")
        kind = FORM if real else otherwise
        answer = pages.ask(case.method, f"{path}?{query}", body, kind if body else "", host="127.0.0.1:8000")
        looked_over(answer, f"{case.method} {path}")

    ask()


def _long_ago() -> int:
    return int(time.time()) - 60


def _encoded(fields: Mapping[str, Any]) -> bytes:
    pairs = [(name, each) for name, value in fields.items() for each in (value if isinstance(value, list) else [value])]
    return "&".join(
        "=".join(quote(str(part).encode("utf-8", "surrogatepass"), safe="") for part in pair) for pair in pairs
    ).encode("ascii")


# --- what it does not -------------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.sampled_from(
        ["signup", "me", "u", "p", "c", "m", "a", "v", "archive", "inbox", "en", "es", ISSUE, "undo", "data", "static"]
    ),
    st.sampled_from(["..", ".", "%2e%2e", "%00", "%ff", "%ed%a0%80", "%0d%0aSet-Cookie:%20a=1", "%2f%2fevil.example"]),
    st.text(max_size=20).map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="")),
)
REAL = ["/signup/", "/me/", "/archive/", "/archive/en/", f"/archive/en/{ISSUE}/", "/archive/es/feed.json", "/inbox/"]
PATHS = st.one_of(
    st.sampled_from(
        [*REAL, "/", "/sitemap.xml", "/health", "/robots.txt", f"/images/{'0' * 32}.png", "/static/proof.js"]
    ),
    st.tuples(st.lists(PIECES, max_size=5), st.sampled_from(["", "/"])).map(
        lambda two: "/" + "/".join(two[0]) + two[1]
    ),
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "A"])
KINDS = st.sampled_from(
    [
        FORM,
        f"{FORM}; charset=utf-7",
        f"{FORM}; charset=\xff",
        "multipart/form-data",
        "multipart/form-data; boundary=b",
        f"multipart/form-data; boundary={'b' * 500}",
        "application/json",
        "text/plain; charset=idna",
        "",
        ";;;",
    ]
)
BODIES = st.one_of(
    st.binary(max_size=300),
    st.just(b"&" * 3000),
    st.just(b"=&" * 200),
    st.just(b"list=weekly&" * 101),
    st.just(b"email=%00&name=%ed%a0%80&list=%ff&language=%u0041"),
    st.just(b"email=ana%40example.org&name=" + b"A" * 60_000),
    st.just(b"pause=until&day=" + b"9" * 5000),
    st.just(b'--b\r\nContent-Disposition: form-data; name="leave"\r\n\r\nthis\r\n'),
    st.just(b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + b"A" * 3000 + b"\r\n--b--\r\n"),
    st.just(b"--b\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=a\r\n\r\n*\r\n--b--"),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "accept_language",
            "accept_encoding",
            "cookie",
            "x_forwarded_for",
            "x_forwarded_host",
            "forwarded",
            "if_none_match",
            "if_modified_since",
            "range",
            "host",
            "referer",
            "origin",
            "x_http_method_override",
            "remote_addr",
        ]
    ),
    st.one_of(
        st.text(st.characters(codec="latin-1"), max_size=60),
        st.sampled_from(["a" * 5000, "*", '"', "q=" * 200, ",,,;q=x", "Thu, 99 Foo 99999 99:99:99 GMT", "es;q=nan"]),
    ),
    max_size=4,
)


@settings(max_examples=500, suppress_health_check=[*HealthCheck])
@given(METHODS, PATHS, st.text(st.characters(codec="ascii"), max_size=60), KINDS, BODIES, HEADERS)
def test_whatever_comes_to_the_door_is_no_fault(
    pages: Pages, method: str, path: str, query: str, kind: str, body: bytes, headers: dict[str, str]
) -> None:
    answer = pages.ask(method, f"{path}?{query}", body, kind, **headers)
    looked_over(answer, f"{method} {path}")


@pytest.mark.parametrize("purpose", ["confirm", "unsubscribe", "preferences", "manage", "address"])
def test_whatever_is_posted_behind_a_real_link_is_no_fault(
    pages: Pages, tokens: Mapping[str, str], purpose: str
) -> None:
    path = {"confirm": "c", "unsubscribe": "u", "preferences": "p", "manage": "m", "address": "a"}[purpose]
    ways = {"unsubscribe": ["", "/undo", "/reason"], "preferences": ["", "/link"]}
    ways["manage"] = ["/name", "/address", "/preferences", "/erase"]

    @settings(max_examples=60, suppress_health_check=[*HealthCheck])
    @given(st.sampled_from(ways.get(purpose, [""])), KINDS, BODIES, HEADERS)
    def ask(way: str, kind: str, body: bytes, headers: dict[str, str]) -> None:
        answer = pages.ask("POST", f"/{path}/{tokens[purpose]}{way}", body, kind, **headers)
        looked_over(answer, f"POST /{path}/…{way}")

    ask()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (f"{FORM}; charset=idna", b"email=a%40example.org"),
        (f"{FORM}; charset*=utf-8''idna", b"email=a%40example.org"),
        (FORM, b"list=weekly&" * 101),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense"),
    ],
)
def test_a_form_that_cannot_be_read_counts_as_an_empty_one_and_is_a_fault_nowhere(
    pages: Pages, tokens: Mapping[str, str], kind: str, body: bytes
) -> None:
    assert pages.ask("POST", "/signup/?lang=es", body, kind).status in (200, 422)
    assert pages.ask("POST", "/nowhere/?lang=es", body, kind).status == 404
    assert pages.ask("POST", f"/u/{tokens['unsubscribe']}", body, kind).status == 200


# --- sizes, at the door and at the real server ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "length", "body"),
    [
        ("/" + "a" * 2048, "", b""),
        ("/u/" + "a" * 5000, "", b""),
        ("/signup/?" + "a" * 100_000, "", b""),
        ("/signup/", str(64 * 1024 + 1), b"a" * (64 * 1024 + 1)),
        ("/signup/", "9" * 30, b""),
        ("/signup/", "-1", b""),
        ("/signup/", "1e3", b""),
        ("/signup/", "0x10", b""),
    ],
)
def test_what_is_too_large_or_says_nonsense_of_its_size_is_refused(
    pages: Pages, path: str, length: str, body: bytes
) -> None:
    answer = pages.ask("POST", path, body, FORM, **({"content_length": length} if length else {}))
    looked_over(answer, "POST /signup/")
    assert answer.status in (400, 413, 414)


BIG = 64 * 1024
REQUESTS: tuple[tuple[str, bytes, tuple[int, ...]], ...] = (
    ("a long path", b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 3000), (413, 414)),
    ("a longer one", b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 200_000), (400, 413, 414, 431)),
    ("a long query", b"GET /signup/?%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 30_000), (400, 413, 414)),
    ("many headers", b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"X-A: b\r\n" * 5000), (400, 413, 431)),
    ("a large header", b"GET / HTTP/1.1\r\nHost: x\r\nCookie: %s\r\n\r\n" % (b"a" * 300_000), (400, 413, 431)),
    ("a large form", b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BIG + 1), (413,)),
    (
        "a large form in pieces",
        b"POST /signup/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1000\r\n%s\r\n" % (b"a" * 4096) * 20,
        (413,),
    ),
    (
        "a form in pieces",
        b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nemail\r\n1\r\n=\r\n0\r\n\r\n",
        (422,),
    ),
    (
        "both lengths",
        b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nabc",
        (200, 400, 422),
    ),
    ("two lengths", b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", (400,)),
    ("no length that is one", b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", (400,)),
    ("a method of nobody", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", (405,)),
    ("a method in small letters", b"get /archive/en/ HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405)),
    ("no host", b"GET /signup/ HTTP/1.0\r\n\r\n", (200,)),
    ("another host", b"GET /archive/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", (302,)),
    ("a whole address", b"GET http://evil.example/archive/ HTTP/1.1\r\nHost: x\r\n\r\n", (302, 400, 404)),
    ("octets", bytes(range(256)) * 20 + b"\r\n\r\n", (400,)),
    ("a newline in the path", b"GET /signup/%0d%0aX:%20y HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    ("no UTF-8", b"GET /archive/%ff/ HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    ("NUL", b"GET /archive/en/%00/ HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_the_real_server_refuses_what_is_too_large_or_broken_and_goes_on(store: Config) -> None:
    with served(store, worker=False) as server:
        found = {}
        for name, request, wanted in REQUESTS:
            answer = _raw(server, request)
            status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
            head = answer.partition(b"\r\n\r\n")[0].lower()
            if status not in wanted:
                found[name] = status
            if b"set-cookie" in head or b"\r\nx: y" in head or b"evil.example" in head:
                found[name] = -1
        assert found == {}
        assert _raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"ok\n")
        for path in (b"/signup/", b"/archive/en/", b"/nowhere", b"/static/proof.js"):
            head = _raw(server, b"HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert head.endswith(b"\r\n\r\n"), "a HEAD has no body"
        said = server.said()
        assert "failed" not in said
        assert "Traceback" not in said


def _raw(server: Served, request: bytes) -> bytes:
    """What comes back; a server may stop to read what it refuses."""
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1))
            while chunk := connection.recv(65536):
                answer += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer
