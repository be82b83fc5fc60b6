"""The file of a backup: one .tar.gz that holds a database, the secrets and the files of a workspace.

    workspace/newsletter.yaml, .gitignore, issues/…, templates/…, subscribers/*.yaml, subscribers/dkim/*.pem
    database/newsletter.sqlite3                  the whole file, or for PostgreSQL
    database/<table>.copy                        each table as COPY … TO STDOUT writes it
    secrets.env                                  the keys that make links and address keys
    manifest.json                                last: what is above, with the SHA-256 of each, and the migrations

Reading trusts nothing: only plain files with names of this shape are unpacked, into a new folder, and their hashes are
compared before anybody looks at them. The hashes find damage; they do not tell who made the file.

No Django here: an archive is read before it is known which database it will go to.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from newsletter import __version__
from newsletter.config import FILE, Config
from newsletter.errors import Finding, InputError, Where

FORMAT = 1
SECRETS = ("NEWSLETTER_SECRET_KEY", "NEWSLETTER_RETIRED_KEYS", "NEWSLETTER_PEPPER")
_SIGNING_KEYS = "subscribers/dkim"
_MANIFEST, _SECRETS_FILE = "manifest.json", "secrets.env"
_MANIFEST_SIZE = 64_000_000  # octets that a manifest may have
_LEVEL = 3  # of gzip: a third of the time of the usual level, a tenth more octets
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup says about itself."""

    created: datetime
    program: str  # the version that wrote it
    kind: str  # of the database: sqlite or postgresql
    migrations: tuple[str, ...]  # that the database has had
    columns: Mapping[str, tuple[str, ...]]  # PostgreSQL: the columns of each table, in the order of its file
    store: str  # id of the database


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A backup in a folder of its own, every member checked; the folder goes when the `with` ends."""

    manifest: Manifest
    folder: Path

    @property
    def workspace(self) -> Path:
        """The workspace as it would be restored, with a .env."""
        return self.folder / "workspace"

    @property
    def database(self) -> Path:
        return self.folder / "database"

    def files(self) -> dict[str, Path]:
        """The files of the workspace by their path in it, without .env."""
        paths = sorted(path for path in self.workspace.rglob("*") if path.is_file())
        names = {path.relative_to(self.workspace).as_posix(): path for path in paths}
        return {name: path for name, path in names.items() if _allowed(f"workspace/{name}")}


# --- what goes in -----------------------------------------------------------------------------------------------------


def workspace_files(config: Config) -> tuple[dict[str, bytes], list[str]]:
    """The files of a workspace that a backup holds, by their path in it, and those that it leaves out, each with why.

    Links are followed, as rendering follows them, and kept as the files that they lead to.
    """
    root = config.root
    paths = [root / FILE, root / ".gitignore", *sorted((root / "subscribers").glob("*.yaml"))]
    paths += [root / _SIGNING_KEYS / ".gitignore", *sorted((root / _SIGNING_KEYS).glob("*.pem"))]
    for folder in ("issues", "templates"):
        for here, folders, names in os.walk(root / folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths += [Path(here) / name for name in sorted(names)]
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_file() and _allowed(f"workspace/{name}"):
            files[name] = path.read_bytes()
        elif path.is_symlink() or (path.exists() and not path.name.startswith(".")):
            left_out.append(f"{name.encode(errors='replace').decode()}: not a file with a name that can be kept")
    return files, left_out


def secrets_of(config: Config) -> dict[str, str]:
    """The secrets that links and address keys depend on, as .env has them."""
    values = (config.secret_key, " ".join(config.retired_keys), config.pepper)
    return {name: value for name, value in zip(SECRETS, values, strict=True) if value}


def is_secret(name: str) -> bool:
    """Whether a file of the workspace is for its owner's eyes only."""
    return name == ".env" or name.startswith(f"{_SIGNING_KEYS}/")


def write(path: Path, sources: Mapping[str, bytes | Path], secrets: Mapping[str, str], manifest: Manifest) -> None:
    """Writes a backup, for its owner only, whole or not at all. Raises `OSError`; never replaces a file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    members: dict[str, dict[str, object]] = {}
    entries: dict[str, bytes | Path] = {**sources, _SECRETS_FILE: _env_lines(secrets)}
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=_LEVEL, format=tarfile.PAX_FORMAT) as tar:
                for name, source in entries.items():
                    members[name] = _add(tar, name, source, manifest.created)
                _add(tar, _MANIFEST, _manifest_text(manifest, members), manifest.created)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            raise FileExistsError(errno.EEXIST, "is there already; name another file", str(path))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, source: bytes | Path, created: datetime) -> dict[str, object]:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = 0o600, int(created.timestamp())
    if isinstance(source, bytes):
        entry.size = len(source)
        tar.addfile(entry, io.BytesIO(source))
        return {"size": len(source), "sha256": hashlib.sha256(source).hexdigest()}
    entry.size = source.stat().st_size
    with source.open("rb") as file:
        hashing = _Hashing(file)
        tar.addfile(entry, hashing)
    return {"size": entry.size, "sha256": hashing.sha256.hexdigest()}


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.sha256.update(block)
        return block


def _manifest_text(manifest: Manifest, members: Mapping[str, Mapping[str, object]]) -> bytes:
    described = {
        "format": FORMAT,
        "created": manifest.created.isoformat(),
        "program": manifest.program,
        "database": manifest.kind,
        "migrations": manifest.migrations,
        "columns": manifest.columns,
        "store": manifest.store,
        "members": members,
    }
    return (json.dumps(described, indent=1) + "\n").encode()


# --- what comes out ---------------------------------------------------------------------------------------------------


def verify(path: Path) -> Manifest:
    """Reads a backup to its end and compares every hash. Raises `InputError` with what is wrong, `OSError`."""
    return _read(path, None)


@contextmanager
def unpacked(path: Path, root: Path) -> Iterator[Unpacked]:
    """A checked backup, unpacked into a folder inside `root`, where the workspace is to be: on the same disk.

    Its .env has the backup's secrets and whatever else the .env of `root` has. Raises `InputError` with what is wrong,
    `OSError`.
    """
    folder = Path(tempfile.mkdtemp(prefix=".restoring-", dir=root))
    try:
        manifest = _read(path, folder)
        (folder / "workspace").mkdir(exist_ok=True)
        ours = (folder / _SECRETS_FILE).read_text("utf-8")
        env = folder / "workspace" / ".env"
        env.touch(mode=0o600)
        env.write_text(_other_lines(root / ".env") + ours, "utf-8", "surrogateescape")
        yield Unpacked(manifest=manifest, folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, folder: Path | None) -> Manifest:
    """Every member checked, and written into `folder` where one is given."""
    found: dict[str, dict[str, object]] = {}
    text: bytes | None = None
    try:
        with tarfile.open(path, "r|gz") as tar:
            for entry in tar:
                name = entry.name
                if not entry.isreg() or not (_allowed(name) or name in (_MANIFEST, _SECRETS_FILE)):
                    kind = "is no plain file" if not entry.isreg() else "has no business in a backup"
                    raise _refused(path, "member", f"{_shown(name)} {kind}; nothing was restored")
                if name in found or text is not None:
                    raise _refused(path, "member", f"{_shown(name)} is there twice, or after the manifest")
                content = tar.extractfile(entry)
                assert content is not None
                if name == _MANIFEST:
                    if entry.size > _MANIFEST_SIZE:
                        raise _refused(path, "manifest", f"{_MANIFEST} is too large to be one")
                    text = content.read()
                else:
                    found[name] = _take(path, content, entry, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _refused(path, "damaged", f"is cut short, damaged or no .tar.gz ({error})") from error
    except OSError as error:
        if error.errno is None:  # gzip's own: not a file of its kind, a wrong checksum
            raise _refused(path, "damaged", f"is cut short, damaged or no .tar.gz ({error})") from error
        raise
    if text is None:
        raise _refused(path, "manifest", f"is cut short, or no backup of newsletter: it has no {_MANIFEST}")
    return _manifest(path, text, found)


def _take(path: Path, content: Any, entry: tarfile.TarInfo, folder: Path | None) -> dict[str, object]:
    sha256 = hashlib.sha256()
    target: BinaryIO | None = None
    if folder is not None:
        if entry.size > shutil.disk_usage(folder).free:
            raise _refused(path, "room", f"{entry.name} takes {entry.size:,} bytes, which the disk does not have")
        place = folder / entry.name
        place.parent.mkdir(parents=True, exist_ok=True)
        target = os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")
    size = 0
    try:
        while block := content.read(_BLOCK):
            sha256.update(block)
            size += len(block)
            if target:
                target.write(block)
    finally:
        if target:
            target.close()
    return {"size": size, "sha256": sha256.hexdigest()}


def _manifest(path: Path, text: bytes, found: Mapping[str, Mapping[str, object]]) -> Manifest:
    try:
        described = json.loads(text)
        format = described["format"]
        if format != FORMAT:
            help = (
                f"restore it with version {described.get('program', '?')} of newsletter, which wrote it, or a newer one"
            )
            raise _refused(path, "format", f"is a backup of format {format!r}; this program knows {FORMAT}", help)
        manifest = Manifest(
            created=datetime.fromisoformat(described["created"]).astimezone(UTC),
            program=str(described["program"]),
            kind=str(described["database"]),
            migrations=tuple(str(name) for name in described["migrations"]),
            columns={str(table): tuple(map(str, names)) for table, names in described["columns"].items()},
            store=str(described["store"]),
        )
        members = {str(name): dict(values) for name, values in described["members"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _refused(path, "manifest", f"{_MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    wrong = sorted(name for name in members.keys() | found.keys() if members.get(name) != found.get(name))
    if wrong:
        shown = ", ".join(map(_shown, wrong[:5]))
        raise _refused(path, "damaged", f"{shown}: missing, or not what was backed up; nothing was restored")
    if _SECRETS_FILE not in found or f"workspace/{FILE}" not in found or manifest.kind not in ("sqlite", "postgresql"):
        raise _refused(path, "manifest", "holds no workspace with its secrets and a database")
    return manifest


_PART = r"(?!\.)[^/\\\x00-\x1f\x7f]{1,255}"
_MEMBER = re.compile(
    rf"workspace/(?:newsletter\.yaml|\.gitignore|subscribers/{_PART}\.yaml"
    rf"|{_SIGNING_KEYS}/(?:\.gitignore|{_PART}\.pem)"
    rf"|(?:issues|templates)(?:/{_PART}){{1,30}})"
    r"|database/(?:newsletter\.sqlite3|[a-z_]{1,63}\.copy)"
)


def _allowed(name: str) -> bool:
    return bool(_MEMBER.fullmatch(name))


def _refused(path: Path, code: str, message: str, help: str = "") -> InputError:
    help = help or "take another backup file; what is there now was not touched"
    where = Where(path=str(path))
    return InputError([Finding(code=f"backup.{code}", severity="error", where=where, message=message, help=help)])


def _shown(name: str) -> str:
    return ascii(name) if not name.isprintable() or not name.isascii() else name


def _env_lines(secrets: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in secrets.items():
        quote = "'" if '"' in value else '"'
        if quote in value or not value.isprintable():
            message = f"{name} has both kinds of quotes or an invisible character, which a .env cannot carry"
            raise InputError([Finding(code="backup.secret", severity="error", where=None, message=message)])
        lines.append(f"{name}={quote}{value}{quote}\n")
    return "".join(lines).encode()


def _other_lines(path: Path) -> str:
    """The lines of a .env that do not set one of the secrets of a backup."""
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    ours = re.compile(rf"\s*(?:export\s+)?(?:{'|'.join(SECRETS)})\s*=")
    kept = [line for line in text.splitlines() if not ours.match(line)]
    return "".join(f"{line}\n" for line in kept)


def secrets_in(path: Path) -> dict[str, str]:
    """The secrets that a .env sets, as far as it is there."""
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        if match := _SECRET.fullmatch(line):
            value = match[2]
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[match[1]] = value[1:-1] if quoted else value
    return found


_SECRET = re.compile(rf"\s*(?:export\s+)?({'|'.join(SECRETS)})\s*=\s*(\"[^\"]*\"|'[^']*'|.*?)(?:\s+#.*)?\s*")


def size(octets: int) -> str:
    """ "48 KB", "1.2 GB"."""
    value = float(octets)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def new_manifest(
    *, kind: str, migrations: tuple[str, ...], columns: Mapping[str, tuple[str, ...]], store: str
) -> Manifest:
    """The manifest of a backup made now by this version."""
    created = datetime.now(UTC).replace(microsecond=0)
    return Manifest(
        created=created, program=__version__, kind=kind, migrations=migrations, columns=columns, store=store
    )
