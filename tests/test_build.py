"""A build is the same bytes wherever and whenever it is made; its manifest says exactly what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from newsletter.build import Build, build_issue, noon, sample_recipient, seal_sample, write_build, write_file
from newsletter.checks import check_issue
from newsletter.config import Config, load_config
from newsletter.errors import InputError
from newsletter.links import SAMPLE
from newsletter.rendering.edition import SLOT, Edition
from newsletter.rendering.render import sample_root

ISSUE = """\
date: 2017-11-19
subject: {en: A mill reopens, es: Reabre un molino}
preheader: {en: And a road closes, es: Y cierra un camino}
stories:
  - title: {en: The mill, es: El molino}
    date: 2017-11-18
    image: {src: images/mill.png, alt: {en: A mill, es: Un molino}}
    summary: {en: "It grinds, @@NAME@@.", es: "Muele, @@NAME@@."}
"""


@pytest.fixture
def desk(config: Config) -> Config:
    shutil.copytree(sample_root() / "templates", config.root / "templates")
    shutil.copytree(sample_root() / "issues" / "images", config.issues / "images")
    shutil.copy(config.issues / "images" / "plaza.png", config.issues / "images" / "mill.png")
    (config.issues / "2017-11-19.yaml").write_text(ISSUE, "utf-8")
    return config


def made(config: Config) -> tuple[Build, dict[str, Edition]]:
    checked = check_issue(config.issues / "2017-11-19.yaml", config)
    assert checked.issue is not None
    assert checked.ok
    return build_issue(checked.issue, checked.editions, config), dict(checked.editions)


def manifest(build: Build) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(build.files["manifest.json"])
    return described


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_machines_with_other_clocks_locales_and_hash_seeds_build_the_same_bytes(
    desk: Config, tmp_path: Path
) -> None:
    built: list[dict[str, bytes]] = []
    for name, environment in (
        ("one", {"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland", "LC_ALL": "C", "LANG": "C"}),
        ("two/three", {"PYTHONHASHSEED": "2", "TZ": "America/Lima", "LC_ALL": "C.UTF-8", "LANG": "es_PE.UTF-8"}),
    ):
        root = tmp_path / name
        shutil.copytree(desk.root.resolve(), root, ignore=shutil.ignore_patterns("one", "two", "out-*"))
        out = tmp_path / f"out-{len(built)}"
        subprocess.run(
            [sys.executable, "-m", "newsletter", "-w", str(root), "build", "--mjml", "--out", str(out)],
            env=os.environ | environment,
            check=True,
            capture_output=True,
            cwd="/",
        )
        built.append(files_below(out))
    assert built[0] == built[1]
    assert {"en.html", "en.txt", "en.eml", "en.mjml", "es.eml", "manifest.json"} <= set(built[0])


def test_the_manifest_hashes_what_is_in_the_files_and_its_own_hash_names_the_build(desk: Config) -> None:
    build, editions = made(desk)
    described = manifest(build)
    assert build.manifest_hash == sha256(build.files["manifest.json"])
    assert (described["issue"], described["base_url"]) == ("2017-11-19", "https://news.example.org")
    assert set(described["editions"]) == set(editions) == {"en", "es"}
    for language, edition in described["editions"].items():
        assert edition["html"] == sha256(build.files[f"{language}.html"])
        assert edition["text"] == sha256(build.files[f"{language}.txt"])
        assert edition["headers"]["subject"] == editions[language].subject
        assert edition["headers"]["from"] == [editions[language].sender.name, "news@example.org"]
        assert edition["images"] == [image.name for image in editions[language].images]
    assert len(described["images"]) == 2  # the story's and the logo
    for name, digest in described["images"].items():
        assert digest == sha256(build.files[f"images/{name}"])
        assert digest.startswith(name.partition(".")[0])


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("issues/2017-11-19.yaml", "It grinds", "It ground"),
        ("issues/2017-11-19.yaml", "A mill reopens", "A mill opens"),
        ("templates/theme.yaml", '"#ffffff"', '"#fffffe"'),
        ("templates/labels.yaml", "Unsubscribe", "Leave"),
        ("newsletter.yaml", "name: {en: Valley News", "name: {en: The Valley"),
        ("newsletter.yaml", "address: news@example.org", "address: new@example.org"),
        ("newsletter.yaml", "https://news.example.org", "https://staging.example.org"),
    ],
)
def test_other_content_or_headers_have_another_hash(desk: Config, file: str, old: str, new: str) -> None:
    before = made(desk)[0].manifest_hash
    path = desk.root / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    assert made(load_config(desk.root, {}))[0].manifest_hash != before


def test_a_replaced_picture_has_another_name_and_the_build_another_hash(desk: Config) -> None:
    before, _ = made(desk)
    shutil.copy(desk.issues / "images" / "river.png", desk.issues / "images" / "mill.png")
    after, _ = made(desk)
    assert after.manifest_hash != before.manifest_hash
    assert len(set(after.files) & set(before.files) & {name for name in after.files if "/" in name}) == 1  # the logo


def test_the_base_url_of_the_environment_is_in_the_build_and_changes_its_hash(desk: Config) -> None:
    before, _ = made(desk)
    after, _ = made(load_config(desk.root, {"NEWSLETTER_BASE_URL": "https://staging.example.org"}))
    assert manifest(after)["base_url"] == "https://staging.example.org"
    assert b"https://staging.example.org/images/" in after.files["en.html"]
    assert b"https://news.example.org" not in after.files["en.html"]
    assert after.manifest_hash != before.manifest_hash


def parsed(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_sample_is_sealed_for_nobody_at_noon_with_tokens_of_the_public_key(desk: Config) -> None:
    build, _ = made(desk)
    message = parsed(build.files["en.eml"])
    assert message["To"] == "reader@example.org"
    assert message["Date"].datetime == noon(date(2017, 11, 19))
    link = message["List-Unsubscribe"].strip("<>")
    assert SAMPLE.read(link.rpartition("/")[2], "unsubscribe") == 0
    part = message.get_body(("plain",))
    assert part is not None
    assert not SLOT.search(part.get_content())


def test_embedded_pictures_travel_in_the_message_that_refers_to_them(desk: Config) -> None:
    build, editions = made(replace(desk, images="embed"))
    message = parsed(build.files["en.eml"])
    carried = {part["Content-ID"].strip("<>"): part.get_content() for part in message.walk() if part["Content-ID"]}
    html = message.get_body(("html",))
    assert html is not None
    assert len(carried) == 2
    for image in editions["en"].images:
        assert carried[f"{image.name}@newsletter"] == image.content
        assert f"cid:{image.name}@newsletter" in html.get_content()
    assert manifest(build)["editions"]["en"]["embed"] is True


def test_linked_pictures_do_not_travel(desk: Config) -> None:
    assert b"Content-ID" not in made(desk)[0].files["en.eml"]


def test_an_edition_that_cannot_be_sent_is_not_built(desk: Config) -> None:
    checked = check_issue(desk.issues / "2017-11-19.yaml", desk)
    assert checked.issue is not None
    broken = {"en": replace(checked.editions["en"], html="<p>@@NOPE@@</p>")}
    with pytest.raises(InputError, match="@@NOPE@@ is not a slot"):
        build_issue(checked.issue, broken, desk)


def test_the_sample_recipient_fills_every_slot_there_is(desk: Config) -> None:
    _, editions = made(desk)
    edition = replace(editions["en"], text=editions["en"].text + "@@CONFIRM_URL@@ @@ADDRESS@@")
    message = parsed(seal_sample(edition, desk, date(2017, 11, 19)))
    part = message.get_body(("plain",))
    assert part is not None
    assert not SLOT.search(part.get_content())
    assert sample_recipient(edition, desk).slots["ADDRESS"] == "reader@example.org"


# --- writing ---


def build_of(*languages: str, images: tuple[str, ...] = ()) -> Build:
    described = {"editions": {language: {} for language in languages}, "images": dict.fromkeys(images, "")}
    files = {f"{language}.{kind}": b"x" for language in languages for kind in ("html", "txt", "eml")}
    files |= {f"images/{name}": b"x" for name in images}
    return Build(files=files | {"manifest.json": json.dumps(described).encode()}, manifest_hash="")


OLD, NEW = "0" * 32 + ".png", "1" * 32 + ".png"


def test_what_an_earlier_build_left_and_this_one_lacks_is_removed(tmp_path: Path) -> None:
    write_build(build_of("en", "es", images=(OLD,)), tmp_path / "out")
    (tmp_path / "out" / "en.mjml").write_bytes(b"written beside it on request")
    write_build(build_of("en", images=(NEW,)), tmp_path / "out")
    assert files_below(tmp_path / "out") == dict(build_of("en", images=(NEW,)).files)


def test_files_that_no_build_wrote_stay(tmp_path: Path) -> None:
    mine = ["notes.txt", "index.html", "logo.png", "images/photo.jpg", "images/" + OLD, "es.html"]
    for name in mine:
        write_file(tmp_path / name, b"mine")
    write_build(build_of("en"), tmp_path)
    write_build(build_of("en"), tmp_path)
    assert {name for name, content in files_below(tmp_path).items() if content == b"mine"} == set(mine)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"editions": 1, "images": {}}',
        b'{"editions": {"../mine": {}}, "images": {"../mine.txt": "", "../../mine.txt": "", "mine.png": ""}}',
    ],
)
def test_a_manifest_that_is_not_ours_removes_nothing(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "out"
    mine = ["mine.txt", "out/mine.txt", "out/images/mine.png"]
    for name in mine:
        write_file(tmp_path / name, b"mine")
    (folder / "manifest.json").write_bytes(content)
    write_build(build_of("en"), folder)
    assert set(mine) <= set(files_below(tmp_path))


def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a.html", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "a.html", b"new")
    assert files_below(tmp_path) == {"a.html": b"old"}


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    (tmp_path / "es.html").mkdir()  # in the way
    with pytest.raises(OSError):
        write_build(build_of("en", "es"), tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_file_keeps_its_permissions_a_new_one_has_the_usual_ones_or_those_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new", b"")
        write_file(tmp_path / "secret", b"", mode=0o600)
        (tmp_path / "shared").write_bytes(b"")
        (tmp_path / "shared").chmod(0o664)
        write_file(tmp_path / "shared", b"x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"new": 0o640, "secret": 0o600, "shared": 0o664}
