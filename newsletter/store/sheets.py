"""Tables as people's files hold them: CSV of any dialect and encoding, alone or in a zip.

A file is looked over before anything of it is used: a wrong encoding, a workbook, a bomb are told at once. Reading it
takes no more memory for a million rows than for ten.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, cast

from newsletter.errors import Finding, InputError, Where
from newsletter.shape import nearest

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
LONGEST_LINE = 4_000_000  # octets without a line end: what has more is no table
LARGEST = 4_000_000_000  # octets of one table, unpacked
MOST_SHEETS = 200  # in a zip
BOMB = 200  # times that a table of a zip may be larger than its packed form, once it is over 10 MB
SAMPLE = 100  # rows that are looked at to guess what columns hold

REJECT_COLUMNS = ("reject_line", "reject_reason")  # stand before the others in a file of rejected rows

Broken = Callable[[int, list[str], str], None]
"""Takes the line, the cells and the reason for each row that cannot be read as one."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table. `columns` differ from one another; without a header line they are "column 1", "column 2"."""

    name: str  # as messages show it: "people.csv", "export.zip/subscribed.csv"
    file: str  # the name of the file itself, which may say what it is
    encoding: str  # "UTF-8", "Windows-1252", …
    delimiter: str
    columns: tuple[str, ...]
    headed: bool
    sample: tuple[tuple[str, ...], ...]
    size: int  # octets
    row_size: int  # octets of a usual row
    damaged: bool  # UTF-8 with octets in between that are none
    line: int  # where the first row begins
    open: Callable[[], IO[bytes]] = field(repr=False, compare=False)

    @property
    def dialect(self) -> str:
        """ "UTF-8, semicolon"."""
        return f"{self.encoding}, {DELIMITERS.get(self.delimiter, repr(self.delimiter))}"


def open_sheets(path: Path, *, shown: str, encoding: str = "") -> list[Sheet]:
    """Every table in a file: one, or those of a zip, by name. `encoding` replaces the guess.

    Raises `InputError` for what is no table, and `OSError`. What a zip holds besides tables is passed over.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        return _zipped(path, shown, encoding)
    if start == b"\xd0\xcf\x11\xe0":
        raise refused(shown, "is an Excel workbook, which is not read", "in Excel: Save as, CSV UTF-8")
    open = cast("Callable[[], IO[bytes]]", partial(path.open, "rb"))
    sheet = _sheet(open, path.stat().st_size, shown, path.name, encoding)
    if sheet is None:
        raise refused(shown, "is empty", "export it once more; a row for each person is needed, and a header line")
    return [sheet]


def refused(shown: str, message: str, help: str, *, line: int = 0) -> InputError:
    """The error for a file that cannot be used."""
    where = Where(path=shown, line=line)
    return InputError([Finding(code="subscribers.file", severity="error", where=where, message=message, help=help)])


class Rows:
    """The rows of a sheet below its header, blank ones left out. `line` is where the last one begins.

    A quote that is opened and never closed would swallow the lines after it. Such a row goes to `broken`, and reading
    goes on with the next line; so does a row of the wrong width, or with octets that are not of the encoding.
    """

    def __init__(self, sheet: Sheet, broken: Broken) -> None:
        self._sheet, self._broken = sheet, broken
        self._recent: list[str] = []  # the lines of the row that is being read
        self._base = 0  # lines before those of this reader
        self._reader = csv.reader(())
        self._file: IO[bytes] | None = None

    @property
    def line(self) -> int:
        return self._base + self._reader.line_num - len(self._recent) + 1

    @property
    def octets(self) -> int:
        """How far into the file reading has come."""
        return self._file.tell() if self._file and not self._file.closed else self._sheet.size

    def __iter__(self) -> Iterator[list[str]]:
        sheet, recent, width = self._sheet, self._recent, len(self._sheet.columns)
        self._file = sheet.open()
        with _text(self._file, sheet.encoding, damaged=sheet.damaged) as text:
            for _ in range(sheet.line - 1):
                next(text, None)
            self._base = sheet.line - 1
            ahead: Iterator[str] = text
            while True:
                self._reader = csv.reader(self._kept(ahead), delimiter=sheet.delimiter)
                try:
                    for row in self._reader:
                        if len(recent) > 1 and not self._closed():
                            break
                        if len(row) == width and not sheet.damaged:
                            yield row
                        elif row and any(row):
                            if fault := self._fault(row, width):
                                self._broken(self.line, row, fault)
                            else:
                                yield row[:width] if len(row) > width else row + [""] * (width - len(row))
                        recent.clear()
                    else:
                        return
                    reason = "a quote opens here and is not closed"
                except csv.Error:  # a cell over the limit
                    long = "a cell is longer than 131,072 characters"
                    reason = long if len(recent) == 1 else "a quote opens here and is not closed"
                first, *rest = recent
                line, self._base = self.line, self.line
                self._broken(line, first.rstrip("\r\n")[:2000].split(sheet.delimiter), reason)
                recent.clear()
                ahead = chain(rest, ahead)

    def _kept(self, lines: Iterator[str]) -> Iterator[str]:
        keep = self._recent.append
        for line in lines:
            keep(line)
            yield line
        if self._recent:  # the file ends inside a quote
            keep("")
            yield ""

    def _closed(self) -> bool:
        """Whether the lines of a row that spans several are one row indeed, all quotes closed."""
        try:
            return sum(1 for _ in csv.reader(self._recent, delimiter=self._sheet.delimiter, strict=True)) == 1
        except csv.Error:
            return False

    def _fault(self, row: list[str], width: int) -> str:
        if any(row[width:]):
            return f"has {len(row)} cells, the header {width}"
        if self._sheet.damaged and any(0xDC80 <= ord(sign) <= 0xDCFF for cell in row for sign in cell):
            return "holds octets that are not UTF-8"
        return ""


# --- cells that a spreadsheet would take for a formula ----------------------------------------------------------------

_FORMULA = re.compile(r"[\s']*[=+\-@\t\r\0＝＋－＠]")


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: a quote stands before what begins like one, blanks or not.

    A cell that begins with such a quote gets one more, so that `unguarded` gives every cell back as it was.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """What `guarded` was given."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell, 1) else cell


# --- what a file is ---------------------------------------------------------------------------------------------------


def _zipped(path: Path, shown: str, encoding: str) -> list[Sheet]:
    sheets = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "[Content_Types].xml" in names or "content.xml" in names:
                help = "save it as CSV (in Excel: CSV UTF-8), then import that"
                raise refused(shown, "is a workbook, which is not read", help)
            members = [each for each in archive.infolist() if _is_table(each.filename)]
    except zipfile.BadZipFile as error:
        raise refused(shown, f"is a damaged zip: {error}", "fetch it once more") from None
    if not members:
        raise refused(shown, "is a zip without a .csv in it", "unpack it, and name the file with the people")
    if len(members) > MOST_SHEETS:
        raise refused(shown, f"holds {len(members):,} tables", f"unpack it; at most {MOST_SHEETS} are read at once")
    for member in sorted(members, key=lambda each: each.filename):
        name = f"{shown}/{member.filename}"
        if member.flag_bits & 1:
            raise refused(name, "is encrypted", "unpack it with its password, then import what is in it")
        if member.file_size > LARGEST or member.file_size > max(10_000_000, BOMB * member.compress_size):
            raise refused(name, "unpacks to far more than a table would", "unpack it by hand, if you trust it")
        try:
            open = cast("Callable[[], IO[bytes]]", partial(_Member, path, member))
            sheet = _sheet(open, member.file_size, name, Path(member.filename).name, encoding)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise refused(name, f"cannot be unpacked: {error}", "fetch the zip once more, or unpack it") from None
        if sheet:
            sheets.append(sheet)
    if not sheets:
        raise refused(shown, "holds empty tables only", "export it once more")
    return sheets


def _is_table(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return name.lower().endswith((".csv", ".tsv", ".txt")) and not hidden


class _Member(io.RawIOBase):
    """A table of a zip, unpacked as it is read; never more octets than its directory names."""

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self._archive = zipfile.ZipFile(path)
        self._stream = self._archive.open(member)
        self._rest = member.file_size
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        octets = self._stream.read(min(len(view), self._rest))
        view[: len(octets)] = octets
        self._rest -= len(octets)
        self._place += len(octets)
        return len(octets)

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._archive.close()
        super().close()


def _sheet(open: Callable[[], IO[bytes]], size: int, shown: str, file: str, encoding: str) -> Sheet | None:
    """The sheet that a file of octets holds; None for an empty one."""
    encoding, damaged, named = (encoding, False, True) if encoding else (*_encoding(open, shown), False)
    try:
        codecs.lookup(encoding)
    except LookupError:
        names = ("UTF-8", "UTF-16", "Windows-1252", "ISO-8859-1", "ISO-8859-15", "Windows-1250", "Windows-1251")
        help = f"write one that Python knows, such as {', '.join(names)}"
        raise refused(shown, f"{encoding}: no such encoding{nearest(encoding, names)}", help) from None
    if named and not _decodes(open, encoding, shown):
        raise refused(shown, f"is not in the encoding {encoding}", "leave --encoding out, and it is guessed")
    with _text(open(), encoding, damaged=damaged) as text:
        head = _head(text)
    delimiter, skipped = "", 0
    if head and (told := re.fullmatch(r'"?sep=(.)"?[,;\t|\s]*', head[0].lstrip("\ufeff"), re.IGNORECASE)):
        delimiter, skipped = told[1], 1
    delimiter = delimiter or _delimiter(head)
    reader = csv.reader(head[skipped:], delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    before = 0
    try:
        for row in reader:
            if any(cell.strip("\ufeff\0 \t") for cell in row):
                rows.append((skipped + before + 1, row))
            before = reader.line_num
            if len(rows) > SAMPLE:
                break
    except csv.Error:
        pass  # told when the rows are read
    if not rows:
        return None
    header = [_clean(cell) for cell in rows[0][1]]
    headed = not any(looks_like_address(cell) for cell in header)
    if headed:
        while header and not header[-1] and not any(row[len(header) - 1 :] for _, row in rows[1:]):
            header.pop()
        line = rows[1][0] if len(rows) > 1 else rows[0][0] + 1 + rows[0][1].count("\n")
    else:
        line = rows[0][0]
    sample = tuple(tuple(row) for _, row in (rows[1:] if headed else rows))
    octets_of = len("".join(head).encode(errors="replace")) / max(1, len(head))
    return Sheet(
        name=shown,
        file=file,
        encoding=encoding,
        delimiter=delimiter,
        columns=_columns(header if headed else [""] * max(len(row) for _, row in rows)),
        headed=headed,
        sample=sample,
        size=size,
        row_size=max(8, int(octets_of) * (2 if encoding.startswith("UTF-16") else 1)),
        damaged=damaged,
        line=line,
        open=open,
    )


def looks_like_address(cell: str) -> bool:
    return "@" in cell and re.search(r"[^\s@<>:]@[^\s@<>.]+\.[^\s@<>.]", cell) is not None


def _columns(header: list[str]) -> tuple[str, ...]:
    """Names for the columns, each once: what has none is known by its place, what comes again by its number."""
    seen: Counter[str] = Counter()
    names = []
    for place, cell in enumerate(header, 1):
        name = cell or f"column {place}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(names)


def _clean(cell: str) -> str:
    return " ".join(cell.replace("\0", "").strip("\ufeff\u200b ").split())


def _head(text: Iterator[str]) -> list[str]:
    """The first lines, 200,000 characters or so of them."""
    head, room = [], 200_000
    for line in text:
        head.append(line)
        room -= len(line)
        if room < 0 or len(head) > 4 * SAMPLE:
            break
    return head


def _delimiter(head: list[str]) -> str:
    """The delimiter by which most rows have as many cells as the first, and the more the better; a comma, if none."""
    best, chosen = (0.0, 0), ","
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(head, delimiter=delimiter) if any(row)]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 0
        if width > 1:
            alike = sum(len(row) == width for row in rows) / len(rows)
            if (round(alike, 1), width) > best:
                best, chosen = (round(alike, 1), width), delimiter
    return chosen


# --- its encoding -----------------------------------------------------------------------------------------------------

_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def _encoding(open: Callable[[], IO[bytes]], shown: str) -> tuple[str, bool]:
    """The encoding of a whole file, and whether it is UTF-8 with damage.

    What decodes as UTF-8 is UTF-8. A file with more octets that are wrong in UTF-8 than letters that are right is what
    Western Windows writes, or Latin-1 where that has no such octet.
    """
    with open() as file:
        start = file.read(4096)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), "")
    if not marked and start.count(b"\0") * 3 > len(start) > 1:
        marked = "UTF-16LE" if start[1::2].count(b"\0") > start[0::2].count(b"\0") else "UTF-16BE"
    if marked.startswith(("UTF-16", "UTF-32")):
        if not _decodes(open, marked, shown):
            raise refused(shown, f"begins as {marked} and is not to its end", "export it once more, as CSV UTF-8")
        return marked, False
    if _decodes(open, "UTF-8", shown):
        return "UTF-8", False
    good = bad = 0
    with open() as file:
        decoder = codecs.getincrementaldecoder("UTF-8")("surrogateescape")
        while block := file.read(1 << 20):
            for sign in re.findall("[^\x00-\x7f]", decoder.decode(block)):
                if "\udc80" <= sign <= "\udcff":
                    bad += 1
                else:
                    good += 1
    if marked or good > bad:
        return "UTF-8", True
    return ("Windows-1252" if _decodes(open, "Windows-1252", shown) else "ISO-8859-1"), False


def _decodes(open: Callable[[], IO[bytes]], encoding: str, shown: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    unbroken = 0
    with open() as file:
        try:
            while block := file.read(1 << 20):
                end = max(block.rfind(b"\n"), block.rfind(b"\r"))
                unbroken = len(block) - end if end >= 0 else unbroken + len(block)
                if unbroken > LONGEST_LINE:
                    raise refused(shown, "is no table: a line of it has no end", "export it once more, as CSV")
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _text(file: IO[bytes], encoding: str, *, damaged: bool) -> io.TextIOWrapper:
    """A file as lines with their ends, the mark at its beginning removed. Closing it closes the file."""
    name = "utf-8-sig" if encoding == "UTF-8" else encoding
    buffered = io.BufferedReader(file, 1 << 18) if isinstance(file, io.RawIOBase) else file
    return io.TextIOWrapper(buffered, name, "surrogateescape" if damaged else "strict", newline="")
