from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

from newsletter.content.fetch import Address, Fetched, Limits, fetch, is_public
from newsletter.errors import CollectError

HERE = ip_address("127.0.0.1")


class Site(BaseHTTPRequestHandler):
    """A small site: each path is one way to answer."""

    def do_GET(self) -> None:
        answer = getattr(self, f"answer_{self.path.partition('?')[0].strip('/').replace('/', '_')}", None)
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def give(self, body: bytes, *headers: tuple[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_page(self) -> None:
        self.give("Perú".encode("latin-1"), ("Content-Type", "text/plain; charset=ISO-8859-1"))

    def answer_asked(self) -> None:
        self.give(f"{self.requestline}\n{self.headers}".encode())

    def answer_gzip(self) -> None:
        self.give(gzip.compress(b"packed ") + gzip.compress(b"twice"), ("Content-Encoding", "gzip"))

    def answer_deflate(self) -> None:
        self.give(zlib.compress(b"packed"), ("Content-Encoding", "deflate"))

    def answer_bomb(self) -> None:
        self.give(gzip.compress(b"\0" * 3_000_000), ("Content-Encoding", "gzip"))

    def answer_brotli(self) -> None:
        self.give(b"x", ("Content-Encoding", "br"))

    def answer_broken(self) -> None:
        self.give(gzip.compress(b"packed" * 100)[:-20], ("Content-Encoding", "gzip"))

    def answer_large(self) -> None:
        self.give(b"x" * 300_000)

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x" * 10_000)
        except OSError:
            pass

    def answer_short(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"short")

    def answer_drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.drip(self.wfile.write)

    def answer_dripping_header(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.drip(self.wfile.write)

    def drip(self, write: Callable[[bytes], object]) -> None:
        stop: threading.Event = self.server.stop  # type: ignore[attr-defined]
        try:
            while not stop.wait(0.02):
                write(b"x")
                self.wfile.flush()
        except OSError:
            pass

    def answer_headers(self) -> None:
        self.send_response(200)
        for number in range(200):
            self.send_header(f"X-{number}", "x")
        self.end_headers()

    def answer_to(self) -> None:
        self.give(b"", ("Location", self.path.partition("?")[2]), status=302)

    def answer_round(self) -> None:
        self.give(b"", ("Location", "/round"), status=301)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.stop = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.stop.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def limits(
    port: int, *, seconds: float = 10, size: int = 100_000, allow: Callable[[Address], bool] | None = None
) -> Limits:
    return Limits(
        allow=allow or (lambda address: address == HERE),
        look_up=lambda host, _: [HERE] if host == "news.example" else [ip_address(host)],
        ports=frozenset({port}),
        seconds=seconds,
        bytes=size,
    )


def get(port: int, path: str, given: Limits | None = None) -> Fetched:
    return fetch(f"http://news.example:{port}{path}", given or limits(port))


def refusal(url: str, given: Limits | None = None) -> str:
    with pytest.raises(CollectError) as caught:
        fetch(url, given)
    (finding,) = caught.value.findings
    assert finding.code == "collect.fetch"
    assert finding.where
    assert finding.where.path == url
    assert finding.help
    return finding.message


def test_a_page_comes_with_its_address_and_charset(port: int) -> None:
    page = get(port, "/page")
    assert page.body.decode(page.charset) == "Perú"
    assert page.url == f"http://news.example:{port}/page"


def test_the_request_names_the_host_and_quotes_what_is_not_ascii(port: int) -> None:
    asked = get(port, "/asked?q=ñ&x=1").body.decode()
    assert "GET /asked?q=%C3%B1&x=1 HTTP/1.1" in asked
    assert f"Host: news.example:{port}" in asked
    assert "Cookie" not in asked
    assert "Authorization" not in asked


@pytest.mark.parametrize(("path", "body"), [("/gzip", b"packed twice"), ("/deflate", b"packed")])
def test_packed_bodies_are_unpacked(port: int, path: str, body: bytes) -> None:
    assert get(port, path).body == body


def test_a_redirect_is_followed_and_its_end_is_the_base(port: int) -> None:
    assert get(port, "/to?/to?/page").url == f"http://news.example:{port}/page"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere", "answers 404"),
        ("/bomb", "is larger than"),
        ("/large", "is larger than"),
        ("/endless", "is larger than"),
        ("/brotli", "packed as br"),
        ("/broken", "broke off"),
        ("/short", "broke off"),
        ("/headers", "cannot be fetched: got more than 100 headers"),
        ("/round", "redirects more than 3 times"),
        ("/to?file:///etc/passwd", "is neither http: nor https:"),
        ("/to?http://user:word@news.example/", "holds a user name or a password"),
        ("/to?http://169.254.169.254/latest/meta-data/", "inside a network"),
        ("/to?http://10.0.0.1/", "inside a network"),
        ("/to?http://news.example:22/", "is at port 22"),
    ],
)
def test_what_goes_wrong_is_said(port: int, path: str, message: str) -> None:
    given = limits(port)
    given = Limits(allow=given.allow, look_up=given.look_up, ports=given.ports | {80}, seconds=10, bytes=100_000)
    assert message in refusal(f"http://news.example:{port}{path}", given)


@pytest.mark.parametrize("path", ["/drip", "/dripping_header"])
def test_a_server_that_drips_is_left_at_the_deadline(port: int, path: str) -> None:
    assert "did not answer in full" in refusal(f"http://news.example:{port}{path}", limits(port, seconds=0.3))


def test_a_resolver_that_waits_is_left_at_the_deadline(port: int) -> None:
    wait = threading.Event()
    given = Limits(look_up=lambda *_: [HERE] if wait.wait(10) else [], ports=frozenset({port}), seconds=0.1)
    assert "did not answer in full" in refusal(f"http://news.example:{port}/page", given)
    wait.set()


def test_a_redirect_into_the_machine_is_refused(port: int) -> None:
    """With the checks in force: a public name that leads to the loopback."""
    public = ip_address("203.0.113.7")
    given = Limits(
        allow=lambda address: address == HERE if address != public else True,
        look_up=lambda host, _: [HERE] if host == "news.example" else [ip_address("127.0.0.2")],
        ports=frozenset({port, 80}),
    )
    assert "127.0.0.2, inside a network" in refusal(f"http://news.example:{port}/to?http://127.0.0.2/", given)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_the_machine_itself_is_never_asked(host: str) -> None:
    message = refusal(f"http://{host}/")
    assert "inside a network" in message or "cannot be found" in message


def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    given = Limits(look_up=lambda *_: [ip_address("8.8.8.8"), ip_address("192.168.0.1")])
    assert "192.168.0.1, inside a network" in refusal("https://news.example/", given)


def test_the_address_that_was_checked_is_the_one_that_is_asked(port: int) -> None:
    asked: list[str] = []

    def look_up(host: str, _: int) -> list[Address]:
        asked.append(host)
        return [HERE if len(asked) == 1 else ip_address("192.0.2.1")]

    page = fetch(
        f"http://news.example:{port}/page",
        Limits(allow=lambda address: address == HERE, look_up=look_up, ports=frozenset({port})),
    )
    assert (page.body, asked) == ("Perú".encode("latin-1"), ["news.example"])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://news.example/", "is neither http: nor https:"),
        ("file:///etc/passwd", "is neither http: nor https:"),
        ("https://user@news.example/", "holds a user name"),
        ("https://:x@news.example/", "holds a user name"),
        ("http://news.example:8080/", "is at port 8080; only 80 and 443"),
        ("http://news.example:99999/", "is no address"),
        ("http:///path", "names no host"),
        ("http://news.example/a b", "holds a blank"),
        ("http://news.example\\@evil.example/", "a backslash"),
        ("http://[::1/", "is no address"),
        ("http://xn--\u00fc/", "is no address"),
        ("http://news.example/\r\nX: y", "a control character"),
    ],
)
def test_what_is_no_plain_web_address_is_refused(url: str, message: str) -> None:
    def never(*_: object) -> list[Address]:
        raise AssertionError("was looked up")

    assert message in refusal(url, Limits(look_up=never))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "0.0.0.0",
        ),
        *(
            "192.0.0.192",
            "168.63.129.16",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.88.99.1",
        ),
        *(
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "100::1",
            "::127.0.0.1",
        ),
        *(
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:808:808::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
        ),
        *("64:ff9b:1::a00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_addresses_inside_networks_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.1.69", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=news.example"
    names = ["-addext", "subjectAltName=DNS:news.example"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tls_port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is what we test
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("host", "trusted"), [("news.example", True), ("other.example", False)])
def test_the_certificate_is_checked_against_the_name(
    certificate: Path, tls_port: int, host: str, trusted: bool
) -> None:
    tls = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    given = Limits(allow=lambda _: True, look_up=lambda *_: [HERE], ports=frozenset({tls_port}), tls=tls)
    url = f"https://{host}:{tls_port}/page"
    if trusted:
        assert fetch(url, given).body == "Perú".encode("latin-1")
    else:
        assert "certificate that cannot be trusted" in refusal(url, given)


def test_a_certificate_of_nobody_is_refused(tls_port: int) -> None:
    given = Limits(allow=lambda _: True, look_up=lambda *_: [HERE], ports=frozenset({tls_port}))
    assert "certificate that cannot be trusted" in refusal(f"https://news.example:{tls_port}/page", given)


def test_nobody_at_the_address_is_said(port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        empty = free.getsockname()[1]
    assert "cannot be fetched" in refusal(f"http://news.example:{empty}/", limits(empty))


def test_a_name_that_does_not_exist_is_said() -> None:
    def nobody(*_: object) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert "has a host that cannot be found" in refusal("https://nobody.example/", Limits(look_up=nobody))


def test_proxies_of_the_environment_are_not_asked(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert get(port, "/page").body
