"""`newsletter archive`, and what makes an issue private on its way from the file to the page."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import axe_playwright_python
import pytest

from audience import edition
from browser import Browser, find_chromium
from issues_sent import rendered, send
from newsletter.cli import run
from newsletter.config import Config
from pages import Pages, parsed_html, parsed_xml

OUT = Path("public")
MANIFEST = OUT / ".newsletter-archive.json"


def files(folder: Path = OUT) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times() -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in OUT.rglob("*") if path.is_file()}


def test_the_archive_as_files(store: Config) -> None:
    for issue in ("2017-11-12", "2017-11-19"):
        send(store, issue, rendered(store, issue))
    assert run(["archive", "--out", str(OUT)]) == 0
    made = files()
    for language in ("en", "es"):
        for issue in ("2017-11-12", "2017-11-19"):
            assert f"archive/{language}/{issue}/index.html" in made
        assert {f"archive/{language}/index.html", f"archive/{language}/feed.atom", f"archive/{language}/feed.json"} <= {
            *made
        }
    assert {"index.html", "archive/index.html", "404.html", "sitemap.xml"} <= {*made}
    assert sum(name.startswith("images/") for name in made) == 1
    assert sum(name.startswith("static/") for name in made) == 1
    assert not any(b"@@" in content for name, content in made.items() if name.endswith((".html", ".atom", ".json")))


def test_every_link_from_file_to_file_leads_to_one(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.web.archive_pages.ON_A_PAGE", 2)
    for issue in ("2017-11-05", "2017-11-12", "2017-11-19", "2017-11-19 é&b"):
        send(store, issue, {"en": replace(edition(key=issue), images=())} if " " in issue else rendered(store, issue))
    assert run(["archive", "--out", str(OUT), "--base-url", "https://archive.example.org/old"]) == 0
    made, followed, outside = files(), 0, set()
    for name in (name for name in made if name.endswith(".html")):
        document = parsed_html(made[name].decode())
        for each in document.xpath("//@href | //@src"):
            if re.match(r"[a-z]+:", each):
                outside.add(each)
                continue
            path, _, place = each.partition("#")
            if each.startswith("/old/"):
                assert name == "404.html"  # a host shows it anywhere
                target = path.removeprefix("/old/")
                target += "index.html" if target.endswith("/") or not target else ""
            else:
                assert not each.startswith("/"), f"{name}: {each}"
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert unquote(target) in made, f"{name}: {each}"
            if place and not path:
                assert document.xpath(f"//*[@id='{place}']"), f"{name}: {each}"
            followed += 1
    assert followed > 100
    assert "https://news.example.org/signup/?lang=es" in outside
    assert "https://news.example.org/me/?lang=en" in outside
    assert "https://archive.example.org/old/archive/en/2017-11-19/" in outside  # canonical
    assert not any(each.startswith("https://news.example.org/archive/") for each in outside)
    feed = parsed_xml(made["archive/en/feed.atom"])
    assert all(
        each.startswith("https://archive.example.org/old/archive/")
        for each in feed.xpath("//a:entry/a:link/@href", namespaces={"a": "http://www.w3.org/2005/Atom"})
    )
    assert b"<loc>https://archive.example.org/old/archive/en/2017-11-19%20%C3%A9%26b/</loc>" in made["sitemap.xml"]


def test_the_same_gives_the_same_bytes_and_nothing_is_written_twice(store: Config) -> None:
    send(store, made=rendered(store))
    assert run(["archive", "--out", str(OUT)]) == 0
    first, written = files(), times()
    assert run(["archive", "--out", str(OUT)]) == 0
    assert times() == written
    assert run(["archive", "--out", "elsewhere"]) == 0
    assert files(Path("elsewhere")) == first


def test_what_no_longer_belongs_goes_and_what_is_not_ours_stays(
    store: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import mailings

    send(store, "2017-11-12", rendered(store, "2017-11-12"))
    gone = send(store, made=rendered(store))
    assert run(["archive", "--out", str(OUT)]) == 0
    (OUT / "CNAME").write_text("archive.example.org\n")
    (OUT / "archive" / "en" / "notes.txt").write_text("mine\n")
    mailings.cancel(gone, "a mistake")
    assert run(["archive", "--out", str(OUT)]) == 0
    made = files()
    assert "archive/en/2017-11-12/index.html" in made
    assert not (OUT / "archive" / "en" / "2017-11-19").exists()
    assert made["CNAME"] == b"archive.example.org\n"
    assert made["archive/en/notes.txt"] == b"mine\n"
    assert "2 removed" in capsys.readouterr().out


def test_a_folder_with_other_things_in_it_is_left_alone(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    OUT.mkdir()
    (OUT / "thesis.txt").write_text("mine\n")
    assert run(["archive", "--out", str(OUT)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert files() == {"thesis.txt": b"mine\n"}
    assert run(["archive", "--out", str(OUT / "thesis.txt")]) == 2


def test_a_file_of_somebody_else_in_the_way_is_not_overwritten(
    store: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    send(store)
    assert run(["archive", "--out", str(OUT)]) == 0
    place = OUT / "archive" / "en" / "2017-11-26"
    place.mkdir()
    (place / "index.html").write_text("mine")
    send(store, "2017-11-26")
    assert run(["archive", "--out", str(OUT)]) == 1
    assert "is in the way" in capsys.readouterr().err
    assert (place / "index.html").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "\xff"])
def test_a_manifest_that_cannot_be_read_stops_it(store: Config, text: str) -> None:
    OUT.mkdir()
    MANIFEST.write_bytes(text.encode("latin-1"))
    assert run(["archive", "--out", str(OUT)]) == 1
    assert [*files()] == [MANIFEST.name]


def test_a_manifest_removes_nothing_outside(store: Config) -> None:
    OUT.mkdir()
    names = ["../newsletter.yaml", "/etc/hostname", "a/../../newsletter.yaml", "", ".", "a\\b", "archive/old.html"]
    MANIFEST.write_text(json.dumps({"format": 1, "files": dict.fromkeys(names, "")}))
    (OUT / "archive").mkdir()
    (OUT / "archive" / "old.html").write_text("ours, once")
    assert run(["archive", "--out", str(OUT)]) == 0
    assert Path("newsletter.yaml").exists()
    assert not (OUT / "archive" / "old.html").exists()


def test_a_run_that_was_broken_off_is_taken_up(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.build import write_file
    from newsletter.cli import archive

    send(store, made=rendered(store))
    left = iter(range(4))

    def full(path: Path, content: bytes) -> None:
        if path.name != MANIFEST.name and next(left, None) is None:
            raise OSError(28, "No space left on device")
        write_file(path, content)

    monkeypatch.setattr(archive, "write_file", full)
    assert run(["archive", "--out", str(OUT)]) == 1
    monkeypatch.setattr(archive, "write_file", write_file)
    assert run(["archive", "--out", str(OUT)]) == 0
    assert "archive/es/2017-11-19/index.html" in files()
    assert not any(each.startswith(".") and each != MANIFEST.name for each in files())


def test_nothing_sent_gives_a_site_that_says_so(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["archive", "--out", str(OUT)]) == 0
    assert "Nothing public has been sent yet" in capsys.readouterr().out
    assert "The first issue will be found here" in (OUT / "index.html").read_text("utf-8")


@pytest.mark.parametrize("url", ["archive.example.org", "ftp://x", "https://", "https://a?b", "https://a b", "x"])
def test_a_base_url_is_a_whole_address(store: Config, url: str) -> None:
    assert run(["archive", "--out", str(OUT), "--base-url", url]) == 2
    assert not OUT.exists()


def test_issues_to_a_private_list_are_private(store: Config) -> None:
    """From lists.yaml, through the command line, into the mail and onto the page."""
    rendered(store)
    lists = store.lists.read_text("utf-8")
    store.lists.write_text(lists.replace("id: weekly", "id: weekly\n    private: true"), "utf-8")
    Path("people.csv").write_text("email\nme@valley.org\n")
    assert run(["subscribers", "import", "people.csv", "--consent", "asked at the fair"]) == 0
    assert run(["send", "2017-11-19", "--yes"]) == 0
    (mail,) = (path.read_bytes() for path in (store.outbox / "new").iterdir())
    whole = mail.replace(b"=\r\n", b"").replace(b"=\n", b"")
    assert b"/archive/en/" not in whole
    (link,) = {match.decode() for match in re.findall(rb"https://news\.example\.org(/v/[\w.-]+)", whole)}
    pages = Pages(store)
    assert pages.get(link).status == 200
    assert pages.get("/archive/en/2017-11-19/").status == 404
    # Frozen as it was: that the list is public from now on does not publish what went to it before.
    store.lists.write_text(lists, "utf-8")
    assert Pages(store).get("/archive/en/2017-11-19/").status == 404
    assert run(["archive", "--out", str(OUT)]) == 0
    assert not any("2017-11-19" in name for name in files())


def test_a_test_mail_shows_its_issue_to_whoever_has_it_and_publishes_nothing(store: Config) -> None:
    rendered(store)
    assert run(["send", "2017-11-19", "--test", "me@valley.org"]) == 0
    mails = [path.read_bytes().replace(b"=\r\n", b"").replace(b"=\n", b"") for path in (store.outbox / "new").iterdir()]
    links = {match.decode() for each in mails for match in re.findall(rb"https://news\.example\.org(/v/[\w.-]+)", each)}
    assert len(links) == 2
    pages = Pages(store)
    assert all("the week" in pages.get(link).text or "Buenos" in pages.get(link).text for link in links)
    assert "2017-11-19" not in pages.get("/archive/en/").text


# --- how it looks -----------------------------------------------------------------------------------------------------

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


@pytest.fixture
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        assert os.environ.get("CI") != "true", "Chromium is needed here: apt-get install chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    with Browser(path) as browser:
        yield browser


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_no_page_has_a_barrier_at_any_width_in_light_and_dark(store: Config, browser: Browser) -> None:
    for issue in ("2017-11-12", "2017-11-19"):
        send(store, issue, rendered(store, issue))
    send(store, "2017-11-26", {"fr": edition("fr", key="2017-11-26")})
    assert run(["archive", "--out", str(OUT)]) == 0
    names = ("index.html", "archive/es/index.html", "archive/en/2017-11-12/index.html")
    for name in (*names, "archive/es/2017-11-19/index.html"):  # 404.html has its style sheet from the host's root
        for width, dark in ((320, False), (320, True), (1200, False), (1200, True)):
            browser.view(width, dark=dark)
            browser.open(OUT / name)
            browser.run(f"{AXE}; 0")
            found = browser.run("axe.run().then(r => r.violations.map(v => v.id + ' ' + v.nodes[0].target))")
            assert found == [], f"{name} at {width}, dark: {dark}"
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run("[...document.images].every(image => image.naturalWidth)")
