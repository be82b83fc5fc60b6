"""Pictures of a workspace: found only inside issues/images, and known by what they hold, not by their names."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from newsletter.config import Config
from newsletter.errors import Finding, IssueError, Where
from newsletter.rendering.edition import Image
from newsletter.rendering.offline import offline

with offline():
    import imagesize

MAX_BYTES = 5 * 1024 * 1024


def load_image(src: str, config: Config, where: Where) -> Image:
    """The picture that `src` ("images/lima.jpg", relative to issues/) names.

    Raises IssueError, at `where`, when it is not there, lies outside issues/images once links are followed, is too
    large, or is not a PNG, JPEG, GIF or WebP by content.
    """

    def refuse(code: str, message: str, help: str) -> IssueError:
        return IssueError(
            [Finding(code=f"image.{code}", severity="error", where=where, message=f"{src}: {message}", help=help)]
        )

    folder = config.issues.resolve() / "images"  # taken as it stands: a link in its place could lead anywhere
    try:
        path = (config.issues / src).resolve()
        inside = path.is_relative_to(folder)
        there = inside and path.is_file()  # a pipe is no file: reading one would never end
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL, a name that is too long
        raise refuse("unreadable", "is not a usable file name", "name a file in issues/images") from None
    if not inside:
        help = "put the file itself into issues/images and write images/<name>"
        if "://" in src:
            help = "download the picture into issues/images and write images/<name>"
        elif (folder / src).resolve().is_relative_to(folder) and (folder / src).is_file():
            help = f"write images/{src}"
        elif "\\" in src:
            help = "write / where there is a \\"
        raise refuse("outside", "lies outside issues/images", help)
    if not there:
        raise refuse("missing", "there is no such file", _like(path, folder))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise refuse("unreadable", f"cannot be read: {error.strerror}", "check the file's permissions") from None
    if len(content) > MAX_BYTES:
        raise refuse(
            "large", f"is larger than {MAX_BYTES // 1024 // 1024} MiB", "make it 1072 pixels wide; that is enough"
        )
    extension, media_type = _kind(content)
    width, height = _size(content) if extension else (0, 0)
    if not extension or width <= 0 or height <= 0:
        raise refuse("type", "is not a PNG, JPEG, GIF or WebP image", "export it as PNG or JPEG")
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.{extension}"
    return Image(name=name, media_type=media_type, content=content, width=width, height=height)


def _kind(content: bytes) -> tuple[str, str]:
    """File name extension and media type by the first bytes, or two empty strings."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "jpg", "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "gif", "image/gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp", "image/webp"
    return "", ""


def _size(content: bytes) -> tuple[int, int]:
    try:
        width, height = imagesize.get(io.BytesIO(content))
    except Exception:  # imagesize trusts what a file says of itself; a cut or forged file may fail it in any way
        return 0, 0
    return int(width), int(height)


def _like(path: Path, folder: Path) -> str:
    try:
        names = sorted(each.name for each in folder.iterdir() if each.is_file())
    except OSError:
        names = []
    same = [name for name in names if name.lower() == path.name.lower()]
    if same:
        return f"the file is named {same[0]} (capitals count)"
    return f"files there: {', '.join(names[:8])}" if names else "put the file into issues/images"
