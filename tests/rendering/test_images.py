"""Nothing outside issues/images can be read, and what is read is a picture by its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.errors import IssueError, Where
from newsletter.rendering.images import MAX_BYTES, load_image

HERE = Where(path="issues/2017-11-19.yaml", line=9)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = 2, height: int = 3) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\0" * 3)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffc0000b080003000201011100ffd9"  # SOI, APP0, SOF0 (2 × 3), EOI
)
GIF = b"GIF89a\x02\x00\x03\x00\x00\x00\x00,\x00\x00\x00\x00\x02\x00\x03\x00\x00\x02\x02D\x01\x00;"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0e\x00\x00\x00\x2f\x01\x80\x00\x00\x07\x10\x11\xfd\x0f\x44\x44\xff\x03"


@pytest.fixture
def images(config: Config) -> Path:
    folder = config.issues / "images"
    folder.mkdir()
    return folder


def refused(src: str, config: Config) -> tuple[str, str]:
    """Code and message with which a picture is refused."""
    with pytest.raises(IssueError) as caught:
        load_image(src, config, HERE)
    (finding,) = caught.value.findings
    assert (finding.where, finding.severity, bool(finding.help)) == (HERE, "error", True)
    return finding.code, finding.message


@pytest.mark.parametrize(
    ("content", "extension", "media_type"),
    [
        (png(), "png", "image/png"),
        (JPEG, "jpg", "image/jpeg"),
        (GIF, "gif", "image/gif"),
        (WEBP, "webp", "image/webp"),
    ],
    ids=["png", "jpeg", "gif", "webp"],
)
def test_the_type_is_told_from_the_content_whatever_the_name_says(
    config: Config, images: Path, content: bytes, extension: str, media_type: str
) -> None:
    (images / "picture.txt").write_bytes(content)
    image = load_image("images/picture.txt", config, HERE)
    assert image.name == f"{hashlib.sha256(content).hexdigest()[:32]}.{extension}"
    assert (image.media_type, image.width, image.height, image.content) == (media_type, 2, 3, content)


def test_a_replaced_file_has_another_name_and_a_copy_the_same(config: Config, images: Path) -> None:
    (images / "a.png").write_bytes(png())
    (images / "copy.png").write_bytes(png())
    before = load_image("images/a.png", config, HERE)
    assert load_image("images/copy.png", config, HERE) == before
    (images / "a.png").write_bytes(png(4, 4))
    assert load_image("images/a.png", config, HERE).name != before.name


@pytest.mark.parametrize(
    "src",
    [
        "../.env",
        "images/../../.env",
        "images/../2017-11-19.yaml",
        "blocks.yaml",
        "/etc/passwd",
        "images/..",
        ".",
        "images/../images-too/a.png",
    ],
)
def test_no_path_leads_out_of_the_folder(config: Config, images: Path, src: str) -> None:
    for path in (config.root / ".env", config.issues / "2017-11-19.yaml", config.issues / "blocks.yaml"):
        path.write_bytes(png())
    (config.issues / "images-too").mkdir()
    (config.issues / "images-too" / "a.png").write_bytes(png())
    assert refused(src, config) == ("image.outside", f"{src}: lies outside issues/images")


def test_an_absolute_path_leads_nowhere_else(
    config: Config, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "a.png"
    secret.write_bytes(png())
    assert refused(str(secret), config)[0] == "image.outside"


def test_links_out_of_the_folder_are_refused_and_links_inside_are_followed(config: Config, images: Path) -> None:
    outside = config.root / "private"
    outside.mkdir()
    (outside / "a.png").write_bytes(png())
    (images / "file.png").symlink_to((outside / "a.png").resolve())
    (images / "folder").symlink_to(outside.resolve())
    (images / "relative.png").symlink_to("../../private/a.png")
    for name in ("file.png", "folder/a.png", "relative.png"):
        assert refused(f"images/{name}", config)[0] == "image.outside"
    (images / "real.png").write_bytes(png())
    (images / "inside.png").symlink_to("real.png")
    assert load_image("images/inside.png", config, HERE) == load_image("images/real.png", config, HERE)


def test_a_link_in_the_place_of_the_folder_opens_nothing(config: Config) -> None:
    outside = config.root / "private"
    outside.mkdir()
    (outside / "a.png").write_bytes(png())
    (config.issues / "images").symlink_to(outside.resolve())
    assert refused("images/a.png", config)[0] == "image.outside"


def test_a_workspace_that_is_reached_through_a_link_works(config: Config, images: Path) -> None:
    (images / "a.png").write_bytes(png())
    (config.root / "real").mkdir()
    os.rename(config.issues, config.root / "real" / "issues")
    config.issues.symlink_to("real/issues")
    assert load_image("images/a.png", config, HERE).width == 2


def test_a_loop_of_links_a_nul_and_a_name_too_long_are_refused(config: Config, images: Path) -> None:
    (images / "a.png").symlink_to("b.png")
    (images / "b.png").symlink_to("a.png")
    assert refused("images/a.png", config)[0] in ("image.unreadable", "image.missing", "image.outside")
    assert refused("images/a\0.png", config)[0] == "image.unreadable"
    assert refused(f"images/{'a' * 300}.png", config)[0] == "image.unreadable"
    assert refused("images/" + "a/" * 3000, config)[0] in ("image.unreadable", "image.missing")


def test_a_folder_a_pipe_and_a_device_are_no_files_and_nothing_waits_for_them(config: Config, images: Path) -> None:
    (images / "folder.png").mkdir()
    os.mkfifo(images / "pipe.png")
    (images / "zero.png").symlink_to("/dev/zero")
    assert refused("images/folder.png", config)[0] == "image.missing"
    assert refused("images/pipe.png", config)[0] == "image.missing"
    assert refused("images/zero.png", config)[0] == "image.outside"


def test_a_name_in_other_capitals_is_refused_with_the_right_one(config: Config, images: Path) -> None:
    (images / "Lima.png").write_bytes(png())
    with pytest.raises(IssueError, match=r"there is no such file.*\n.*the file is named Lima\.png"):
        load_image("images/lima.png", config, HERE)


def test_a_missing_file_is_answered_with_those_that_are_there(config: Config) -> None:
    with pytest.raises(IssueError, match="put the file into issues/images"):
        load_image("images/lima.png", config, HERE)
    (config.issues / "images").mkdir()
    (config.issues / "images" / "cusco.png").write_bytes(png())
    with pytest.raises(IssueError, match=r"files there: cusco\.png"):
        load_image("images/lima.png", config, HERE)


def test_5_mib_are_taken_and_a_byte_more_is_not(config: Config, images: Path) -> None:
    (images / "a.png").write_bytes(png().ljust(MAX_BYTES, b"\0"))
    assert len(load_image("images/a.png", config, HERE).content) == MAX_BYTES
    with (images / "a.png").open("ab") as file:
        file.write(b"\0")
    assert refused("images/a.png", config) == ("image.large", "images/a.png: is larger than 5 MiB")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png()[:20],
        png(0, 5),
        b"\xff\xd8\xff",
        JPEG[:20],
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"/>',
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"/>',
        b"<!doctype html><script>alert(1)</script>",
        b"BM\x46\0\0\0",
        b"NEWSLETTER_SECRET_KEY=abc\n",
        b"\0\0\0\x18ftypavif",
    ],
)
def test_what_is_no_picture_by_content_is_refused_even_when_cut_off_in_its_head(
    config: Config, images: Path, content: bytes
) -> None:
    (images / "a.png").write_bytes(content)
    assert refused("images/a.png", config)[0] == "image.type"


def test_dimensions_that_a_file_only_claims_do_no_harm(config: Config, images: Path) -> None:
    (images / "a.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    assert load_image("images/a.png", config, HERE).width == 2**31 - 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([png(), JPEG, GIF, WEBP]),
    st.integers(0, 80),
    st.binary(max_size=12),
    st.integers(0, 60),
)
def test_whatever_a_file_holds_is_a_picture_or_refused(
    config: Config, start: bytes, cut: int, more: bytes, at: int
) -> None:
    (config.issues / "images").mkdir(exist_ok=True)
    content = start[:cut]
    (config.issues / "images" / "a.png").write_bytes(content[:at] + more + content[at:])
    try:
        image = load_image("images/a.png", config, HERE)
    except IssueError:
        return
    assert image.width > 0
    assert image.height > 0
    assert re.fullmatch(r"[0-9a-f]{32}\.(png|jpg|gif|webp)", image.name)
