"""The preview: a real server, real saves, and once a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watchfiles import watch

from newsletter.cli import preview as module
from newsletter.cli import proofs
from newsletter.cli.preview import running_preview
from newsletter.cli.proofs import CHANGED, as_client, mark_change
from newsletter.errors import InputError
from newsletter.rendering.edition import Image
from newsletter.rendering.render import sample_root

ISSUE = """\
date: 2017-11-19
subject: {en: "Valley & hills </script>", es: Valle}
preheader: {en: The first words, es: Las primeras palabras}
intro: {en: "Dear @@NAME@@", es: "Hola, @@NAME@@"}
stories:
  - title: {en: Mill reopens, es: Reabre el molino}
    date: 2017-11-18
    url: https://example.org/mill
    image: {src: images/mill.png, alt: {en: The mill, es: El molino}}
    summary: {en: The old mill turns again., es: El viejo molino vuelve a girar.}
"""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGPgDk0GAAEyAMReRPmqAAAAAElFTkSuQmCC"
)
SETTINGS = """\
title: {en: Valley News, es: Noticias del Valle}
sender: {address: news@example.org, name: {en: Valley News, es: Noticias del Valle}}
languages: [en, es]
base_url: https://news.example.org
postal_address: 1 Mill Street, Exampletown
"""
PATH = "issues/2017-11-19.yaml"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True, kw_only=True)
class Client:
    """Talks to a preview as a browser or an attacker would."""

    url: str
    announced: list[str]

    def connect(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        return HTTPConnection(parts.hostname or "", parts.port, timeout=30)

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(self.connect()) as connection:
            connection.putrequest(method, path, skip_host="Host" in named)
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(status=response.status, headers=response.headers, body=response.read())

    def state(self, issue: str = "") -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.ask(f"/state?issue={issue}").body)
        return state

    def codes(self, issue: str = "") -> list[str]:
        return [finding["code"] for finding in self.state(issue)["findings"]]

    def message(self, language: str = "en", **choices: str) -> Answer:
        rest = "".join(f"&{name}={value}" for name, value in choices.items())
        return self.ask(f"/message?issue=2017-11-19&language={language}{rest}")

    def after(self, save: Callable[[], None], met: Callable[[dict[str, Any]], bool], issue: str = "") -> dict[str, Any]:
        """The first state after a save that is as it should be, read when the events say so."""
        with closing(self.connect()) as connection:
            connection.request("GET", "/events")
            response = connection.getresponse()
            assert response.headers["Content-Type"] == "text/event-stream"
            begun, silent = False, 0
            while silent < 3:
                line = response.readline()
                silent += line.startswith(b":") or not line  # a comment comes every ten seconds
                if not line.startswith(b"data: "):
                    continue
                if begun and met(state := self.state(issue)):
                    return state
                if not begun and int(line.rpartition(b"-")[2]) >= 2:  # each of the two watchers tells that it begins
                    begun = True
                    save()
        pytest.fail("no event told of the save")


def furnish(root: Path) -> Path:
    """A workspace with an issue that has a picture."""
    images = root / "issues/images"
    images.mkdir(parents=True)
    images.joinpath("mill.png").write_bytes(PICTURE)
    (root / PATH).write_text(ISSUE, "utf-8")
    return root


@pytest.fixture
def desk(workspace: Path) -> Path:
    return furnish(workspace)


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """Starts previews and ends them after the test."""
    with ExitStack() as running:

        def started(root: Path, issue: Path | None = None, **options: Any) -> Client:
            announced: list[str] = []
            url = running.enter_context(running_preview(root, issue, announce=announced.append, **options))
            return Client(url=url, announced=announced)

        yield started


@pytest.fixture
def client(desk: Path, start: Callable[..., Client]) -> Client:
    """A preview of a workspace that the test may change."""
    return start(desk)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A preview of a workspace that nobody changes."""
    root = furnish(tmp_path_factory.mktemp("steady"))
    (root / "newsletter.yaml").write_text(SETTINGS, "utf-8")
    announced: list[str] = []
    with running_preview(root, None, announce=announced.append) as url:
        yield Client(url=url, announced=announced)


def replace(path: Path, text: str) -> None:
    """A save as vim and VS Code make it: a new file takes the place of the old one."""
    other = path.with_name(f".{path.name}.new")
    other.write_text(text, "utf-8")
    os.replace(other, path)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_page_carries_the_newest_issue_and_a_subject_cannot_end_its_script(desk: Path, client: Client) -> None:
    (desk / "issues/2017-11-12.yaml").write_text(ISSUE, "utf-8")
    page = client.ask("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    match = re.search(r'<script type="application/json" id="state">(.*?)</script>', page.text)
    assert match
    state = json.loads(match[1])
    assert state["issue"] == "2017-11-19"
    assert state["editions"]["en"]["subject"] == "Valley & hills </script>"


def test_page_begins_with_the_issue_that_was_given(desk: Path, start: Callable[..., Client]) -> None:
    older = desk / "issues/2017-11-12.yaml"
    older.write_text(ISSUE, "utf-8")
    client = start(desk, older)
    assert client.state()["issue"] == "2017-11-12"
    assert client.state()["issues"] == ["2017-11-19", "2017-11-12"]
    assert client.announced == [f"Preview of issues/2017-11-12.yaml: {client.url} (Ctrl-C ends it)"]


def test_an_issue_outside_the_folder_can_be_given(desk: Path, start: Callable[..., Client]) -> None:
    draft = desk / "draft.yaml"
    draft.write_text(ISSUE.replace("Mill reopens", "Draft"), "utf-8")
    client = start(desk, draft)
    assert client.state()["issues"] == ["2017-11-19", "draft.yaml"]
    assert "Draft" in client.state("draft.yaml")["editions"]["en"]["text"]


def test_inbox_line_has_subject_preheader_sender_and_size(steady: Client) -> None:
    edition = steady.state()["editions"]["es"]
    assert (edition["subject"], edition["sender"]) == ("Valle", "Noticias del Valle")
    assert edition["address"] == "news@example.org"
    assert edition["preheader"].startswith("Las primeras palabras")
    assert 10_000 < edition["size"] < steady.state()["limit"] == 102_400


def test_message_is_filled_for_a_sample_reader(steady: Client) -> None:
    html, text = steady.message().text, steady.state()["editions"]["en"]["text"]
    assert "Dear Ana" in html
    assert "Dear Ana" in text
    assert "@@" not in html + text
    assert "https://news.example.org/u/" in html


def test_links_open_a_tab_or_move_within_the_message(desk: Path, client: Client) -> None:
    stories = "".join(f'  - {{title: {{en: "S{n}", es: "T{n}"}}, date: 2017-11-18}}\n' for n in range(4))
    (desk / PATH).write_text(ISSUE + stories, "utf-8")
    links = re.findall(r"<a\b[^>]*>", client.message().text)
    assert any('href="https://example.org/mill"' in link for link in links)
    for link in links:
        assert link.count("target=") == 1
        assert ('target="_self"' in link) == ('href="#' in link)


@pytest.mark.parametrize("policy", ["link", "embed"])
def test_images_of_the_editions_are_served(desk: Path, start: Callable[..., Client], policy: str) -> None:
    with (desk / "newsletter.yaml").open("a") as file:
        file.write(f"images: {policy}\n")
    client = start(desk)
    sources = re.findall(r'<img\b[^>]*\ssrc="([^"]*)"', client.message().text)
    assert sources
    assert all(source.startswith("/images/") for source in sources)
    image = client.ask(sources[0])
    assert image.headers["Content-Type"] == "image/png"
    assert image.body == PICTURE


def test_images_off_and_on_is_a_matter_of_the_frames_policy(steady: Client) -> None:
    off = steady.message(images="off").headers["Content-Security-Policy"]
    assert "img-src 'none'" in off
    on = steady.message().headers["Content-Security-Policy"]
    assert f"img-src {steady.url}images/;" in on
    for policy in (on, off):
        assert policy.startswith("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'")


def test_dark_and_styles_removed_are_chosen_per_frame(steady: Client) -> None:
    assert "prefers-color-scheme" not in steady.message(scheme="dark").text
    assert "color-scheme: dark" in steady.message(scheme="dark").text
    removed = steady.message(styles="off").text
    assert "@media" not in removed
    assert "style=" in removed


@pytest.mark.parametrize(
    ("query", "light", "dark"),
    [
        ("(prefers-color-scheme: dark)", "(max-width:0px)", "(min-width:0px)"),
        ("(prefers-color-scheme:light)", "(min-width:0px)", "(max-width:0px)"),
        ("screen and ( prefers-color-scheme : DARK )", "screen and (max-width:0px)", "screen and (min-width:0px)"),
    ],
)
def test_preference_for_a_scheme_becomes_always_or_never(query: str, light: str, dark: str) -> None:
    html = f"<style>@media {query} {{ p {{ color: red }} }}</style><p>{query}</p>"
    for scheme, answer in (("light", light), ("dark", dark)):
        shown = as_client(html, scheme=scheme, styles=True)  # type: ignore[arg-type]
        assert shown == f"<style>@media {answer} {{ p {{ color: red }} }}</style><p>{query}</p>"


def test_changed_place_is_marked_and_prose_in_comments_is_not() -> None:
    before = "<body><h1>News</h1><p>One.</p><!--[if mso]><td>--><p class='x'>Two.</p></body>"
    assert mark_change(before.replace("Two", "Three"), before) == before.replace(
        "<p class='x'>Two", f"<p id=\"{CHANGED}\" class='x'>Three"
    )
    assert mark_change(before.replace("<body>", "<body lang=en>"), before) == before.replace("<body>", "<body lang=en>")


@given(before=st.text("<p>ab ", max_size=30), html=st.text("<p>ab ", max_size=30))
def test_a_mark_adds_nothing_but_an_id(before: str, html: str) -> None:
    assert mark_change(html, before).replace(f' id="{CHANGED}"', "") == html


# --- following saves --------------------------------------------------------------------------------------------------


def in_place(root: Path) -> None:
    (root / PATH).write_text(ISSUE.replace("turns again", "has CHANGED"), "utf-8")


def by_replacing(root: Path) -> None:
    replace(root / PATH, ISSUE.replace("turns again", "has CHANGED"))


def by_a_folder_story(root: Path) -> None:
    (root / "issues/2017-11-19").mkdir()
    (root / "issues/2017-11-19/new.md").write_text("---\ntitle: CHANGED\ndate: 2017-11-18\n---\nText.\n", "utf-8")


def by_settings(root: Path) -> None:
    replace(root / "newsletter.yaml", (root / "newsletter.yaml").read_text("utf-8").replace("1 Mill", "CHANGED"))


def by_environment(root: Path) -> None:
    (root / ".env").write_text("NEWSLETTER_BASE_URL=https://CHANGED.example.org\n", "utf-8")


def by_a_first_template(root: Path) -> None:
    (root / "templates").mkdir()
    template = (sample_root() / "templates/digest.txt.j2").read_text("utf-8")
    (root / "templates/digest.txt.j2").write_text(f"CHANGED\n{template}", "utf-8")


@pytest.mark.parametrize(
    "save", [in_place, by_replacing, by_a_folder_story, by_settings, by_environment, by_a_first_template]
)
def test_every_save_is_told_and_shown(desk: Path, client: Client, save: Callable[[Path], None]) -> None:
    assert "CHANGED" not in client.state()["editions"]["en"]["text"]
    client.after(lambda: save(desk), lambda state: "CHANGED" in state["editions"]["en"]["text"])


def test_a_folder_that_comes_later_is_watched_too(desk: Path, client: Client) -> None:
    client.after(lambda: by_a_first_template(desk), lambda state: "CHANGED" in state["editions"]["en"]["text"])
    template = desk / "templates/digest.txt.j2"
    again = template.read_text("utf-8").replace("CHANGED", "AGAIN")
    client.after(lambda: replace(template, again), lambda state: "AGAIN" in state["editions"]["en"]["text"])


@pytest.mark.parametrize("failure", [OSError("OS file watch limit reached."), RuntimeError("Error creating watcher")])
def test_a_system_without_file_watches_is_looked_at_again_and_again(
    desk: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def without(*paths: Path, force_polling: bool | None, **options: Any) -> Any:
        if not force_polling:
            raise failure
        return watch(*paths, force_polling=True, **options)

    monkeypatch.setattr(module, "watch", without)
    os.utime(desk / PATH, (0, 0))  # looking again tells whole seconds apart
    client = start(desk)
    client.after(lambda: by_replacing(desk), lambda state: "CHANGED" in state["editions"]["en"]["text"])
    assert any("no file watches left" in line for line in client.announced)


def test_a_save_gives_the_frame_a_new_address_and_a_place_to_open_at(desk: Path, client: Client) -> None:
    first = client.state()["editions"]["en"]["digest"]
    assert CHANGED not in client.message().text.partition("<body")[2]
    client.after(lambda: by_replacing(desk), lambda state: state["editions"]["en"]["digest"] != first)
    assert re.search(rf'<p id="{CHANGED}"[^>]*>The old mill has CHANGED', client.message().text)


# --- whatever the files hold ------------------------------------------------------------------------------------------


def spoil(root: Path, name: str) -> None:
    sample = sample_root() / name
    path = root / name
    path.parent.mkdir(exist_ok=True)
    text = path.read_text("utf-8") if path.exists() else sample.read_text("utf-8")
    path.write_text(f"{text}\n{{% if %}} : [", "utf-8")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (PATH, "issue."),
        ("newsletter.yaml", "config."),
        ("templates/theme.yaml", "theme."),
        ("templates/labels.yaml", "theme."),
        ("templates/digest.mjml.j2", "template."),
        ("templates/digest.txt.j2", "template."),
    ],
)
def test_a_broken_file_is_a_finding_above_the_last_good_message(
    desk: Path, client: Client, name: str, family: str
) -> None:
    good = client.message()
    assert not client.state()["editions"]["en"]["stale"]
    state = client.after(lambda: spoil(desk, name), lambda state: bool(state["editions"]["en"]["stale"]))
    first = state["findings"][0]
    assert first["severity"] == "error"
    assert first["code"].startswith(family), first
    assert first["place"].startswith(name)
    assert client.message().body == good.body
    assert "Traceback" not in json.dumps(state)


def test_a_file_broken_from_the_start_shows_findings_only(desk: Path, start: Callable[..., Client]) -> None:
    spoil(desk, "newsletter.yaml")
    client = start(desk)
    assert client.state()["editions"] == {}
    assert client.codes()[0].startswith("config.")
    assert client.message().status == 404
    assert client.ask("/").status == 200


def test_a_deleted_issue_stays_to_be_seen(desk: Path, client: Client) -> None:
    client.state()
    state = client.after((desk / PATH).unlink, lambda state: bool(state["findings"]), "2017-11-19")
    assert [finding["code"] for finding in state["findings"]] == ["preview.gone"]
    assert state["issues"] == ["2017-11-19"]
    assert state["editions"]["en"]["stale"]


def test_a_workspace_without_issues_says_how_to_begin(desk: Path, start: Callable[..., Client]) -> None:
    (desk / PATH).unlink()
    client = start(desk)
    assert client.codes() == ["preview.no-issue"]
    assert client.announced == [f"Preview of issues/, which has no issue yet: {client.url} (Ctrl-C ends it)"]


def test_a_bug_of_ours_is_a_finding_too(
    desk: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr(proofs, "check_issue", fail)
    client = start(desk)
    (finding,) = client.state()["findings"]
    assert (finding["code"], finding["place"]) == ("preview.unexpected", PATH)
    assert finding["message"] == "the issue cannot be shown: RuntimeError: one"


# --- for this machine only --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
def test_only_loopback_addresses_are_listened_on(desk: Path, host: str) -> None:
    with (
        pytest.raises(InputError, match="for this machine only"),
        running_preview(desk, None, host=host, announce=print),
    ):
        pass


def test_an_issue_that_is_not_there_is_refused(desk: Path) -> None:
    missing = desk / "issues/2017-11-26.yaml"
    with pytest.raises(InputError, match="there is no such file"), running_preview(desk, missing, announce=print):
        pass


def test_a_taken_port_gives_way_to_the_next(
    desk: Path, client: Client, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = urlsplit(client.url).port or 0
    other = start(desk, port=port)
    assert other.url != client.url
    assert other.announced[0].startswith(f"Port {port} is taken; using ")
    monkeypatch.setattr(module, "PORTS", 1)
    with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used: Address already in use"):
        start(desk, port=port)


@pytest.mark.parametrize("name", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}"])
def test_names_of_this_machine_are_answered(steady: Client, name: str) -> None:
    assert steady.ask("/state", Host=name.format(urlsplit(steady.url).port)).status == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{}", ""]
)
@pytest.mark.parametrize("path", ["/", "/state", "/events", "/message?language=en", "/nowhere"])
def test_other_names_are_misdirected(steady: Client, name: str, path: str) -> None:
    answer = steady.ask(path, Host=name.format(urlsplit(steady.url).port))
    assert answer.status == 421
    assert b"Valley" not in answer.body


def test_a_request_with_two_hosts_or_none_is_refused(steady: Client) -> None:
    host = urlsplit(steady.url).netloc
    for head in (f"GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET /\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", urlsplit(steady.url).port or 0), timeout=20) as raw:
            raw.sendall(head.encode())
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
        assert b"not the name of the preview" in answer
        assert b"Valley" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_only_get_and_head_are_answered(steady: Client, method: str) -> None:
    answer = steady.ask("/state", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_has_no_body(steady: Client) -> None:
    for path in ("/", "/state", "/preview.css", "/events", "/nowhere"):
        assert steady.ask(path, method="HEAD").body == b""


@pytest.mark.parametrize("path", ["/state", "/events", "/message?language=en", "/preview.js", "/"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "empty"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_sites_get_nothing(steady: Client, path: str, headers: dict[str, str]) -> None:
    assert steady.ask(path, **headers).status == 403


def test_a_link_may_lead_to_the_page_and_a_sandboxed_frame_may_show_images(steady: Client) -> None:
    assert steady.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document").status == 200
    source = re.findall(r'src="(/images/[^"]*)"', steady.message().text)[0]
    assert steady.ask(source, Origin="null", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image").status == 200
    assert steady.ask(source, Origin="null", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="empty").status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/images/../newsletter.yaml",
        "/images/..%2f..%2fnewsletter.yaml",
        "/images/mill.png",
        "/images/",
        "/../preview.py",
        "/preview.py",
        "/preview.html/../preview.py",
        "/newsletter.yaml",
        "/.env",
        "//etc/passwd",
        "http://evil.example/state",
    ],
)
def test_nothing_but_the_pages_own_paths_is_there(steady: Client, path: str) -> None:
    assert steady.ask(path, Host=urlsplit(steady.url).netloc).status == 404


@pytest.mark.parametrize("issue", ["../newsletter.yaml", "/etc/passwd", "newsletter.yaml", "%00", "2099-01-01"])
def test_the_name_of_an_issue_is_never_a_path(steady: Client, issue: str) -> None:
    assert steady.state(issue)["issue"] == "2017-11-19"


def test_a_long_address_is_refused(steady: Client) -> None:
    assert steady.ask("/?" + "a" * 3000).status == 414
    assert steady.ask("/?" + "a" * 70_000).status == 414


@pytest.mark.parametrize(
    "path", ["/", "/state", "/message?language=en", "/preview.css", "/preview.js", "/images/x", "/x"]
)
def test_every_answer_is_closed_to_the_outside(steady: Client, path: str) -> None:
    headers = steady.ask(path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "base-uri 'none'; form-action 'none'; frame-ancestors" in headers["Content-Security-Policy"]
    assert "unsafe-eval" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]


# --- from end to end --------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_it_even_while_a_page_listens(desk: Path) -> None:
    script = (
        "from pathlib import Path; from newsletter.cli.preview import serve_preview; "
        "serve_preview(Path(), None, port=0, announce=lambda line: print(line, flush=True))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url
        with closing(Client(url=url[0], announced=[]).connect()) as connection:
            connection.request("GET", "/events")
            assert connection.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=20)
    assert (rest, errors, process.returncode) == ("Preview ended.\n", "", 0)


def test_events_end_with_the_preview(desk: Path) -> None:
    with ExitStack() as afterwards:
        with running_preview(desk, None, announce=lambda line: None) as url:
            connection = afterwards.enter_context(closing(Client(url=url, announced=[]).connect()))
            connection.request("GET", "/events")
            response = connection.getresponse()
            response.readline()
        while (line := response.readline()) and line != b": \n":
            pass
    assert line == b""  # and no comment of one who waits still


def test_a_real_browser_shows_the_message_and_follows_a_save(
    desk: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is saved while the first frames wait for their image: the page is not ready before it has followed."""
    chromium = shutil.which("chromium")
    if not chromium:
        assert os.environ.get("CI") != "true", "Chromium is needed here: apt-get install chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    image, as_shown = proofs.Proofs.image, as_client
    saved, followed = threading.Event(), threading.Event()
    shown: list[str] = []

    def slow_image(proofs: proofs.Proofs, name: str) -> Image | None:
        if not saved.is_set():
            saved.set()
            by_replacing(desk)
            followed.wait(30)
        return image(proofs, name)

    def watched(html: str, **choices: Any) -> str:
        shown.append(html)
        if "has CHANGED" in html:
            followed.set()
        return as_shown(html, **choices)

    monkeypatch.setattr(proofs.Proofs, "image", slow_image)
    monkeypatch.setattr(module, "as_client", watched)
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --window-size=1400,900 --dump-dom"
    )
    page = subprocess.run(
        [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'browser'}", f"{client.url}?scheme=dark"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert saved.is_set()  # else the frames were not allowed to ask for images
    assert followed.is_set()
    assert len(shown) == 4  # each of two frames once before and once after the save
    frames = re.findall(r"<iframe\b[^>]*>", page)
    assert len(frames) == 2  # phone and desktop
    for frame in frames:
        assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in frame
        assert 'class=""' in frame  # it has loaded and taken its place
        assert "language=en&amp;scheme=dark" in frame
        assert f"version={client.state()['editions']['en']['digest']}" in frame
    assert "The first words" in page
    assert "Valley &amp; hills &lt;/script&gt;" in page
