"""People from files into the database: nobody twice, nobody back who left.

A file is read to its end before anything is written. What it says of each person goes into a temporary file, parted by
address keys into chunks of some thousand; so every row about a person is in one chunk, and the keys of a chunk are
neighbours in the indexes, which makes writing a million people several times as fast as in the order of the file.
Then each chunk is compared with the database and what is missing is written, in one transaction. A killed import has
written whole chunks, and the same command run again does the rest.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from filecmp import cmp
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils.timezone import now as now_aware

from newsletter.config import Config
from newsletter.errors import AddressError, InputError, NotFound
from newsletter.store import merging
from newsletter.store.columns import Choices, Plan, Tags, plan, reader
from newsletter.store.keys import check_keys, key_maker
from newsletter.store.lists import list_id, load_lists
from newsletter.store.merging import Changes, Terms
from newsletter.store.models import Consent, List, Tag
from newsletter.store.schema import explained
from newsletter.store.sheets import REJECT_COLUMNS, Rows, Sheet, guarded, open_sheets, refused, unguarded
from newsletter.store.spool import Chunk, Spool

CHUNK = 3_000  # rows with neighbouring keys: about 40 ms of work, and on PostgreSQL one transaction
SHORT, FEWEST = 0.02, 200  # seconds that a transaction on SQLite shall take, where nobody else writes meanwhile; rows
THREADS = {"sqlite": 0, "postgresql": 2}  # that write: a server works for two while they wait for its answers
RETRIES = 5  # of a chunk that met another writer on PostgreSQL
SHOWN_REJECTS = 10
MOST_TAGS = 10_000  # different ones in a file: a column with more holds something else

Progress = Callable[[str, float], None]
"""Takes the stage ("reading", "writing") and how much of it is done, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an import did, or would do. Every row is in exactly one of `new` … `rejected`."""

    file: str
    plans: tuple[Plan, ...]
    passed_over: tuple[str, ...]  # tables of a zip that hold no people
    list: str
    dry_run: bool
    rows: int
    new: int  # onto the list
    updated: int  # something was added, filled in, or confirmed
    unchanged: int  # there already
    unsubscribed: int  # the file says that they left, and now the database does
    stay_unsubscribed: int  # left here: stay out
    now_suppressed: int  # bounced, complained or blocked in the file, and now here
    suppressed: int  # here already: stay out
    erased: int  # stay out
    duplicates: int  # rows about somebody of whom the file spoke before
    rejected: int
    unconfirmed: int  # of `new`: nothing says that they consented
    confirmed: int  # of `updated`: were unconfirmed, and the file proves their consent
    reasons: Mapping[str, int]  # of the rejected, most frequent first
    examples: tuple[tuple[str, int, str], ...]  # sheet, line and reason of the first rejected rows
    rejects: tuple[Path, ...]  # where the rejected rows are
    doubts: Mapping[str, int]  # what was passed over in rows that were taken
    seconds: float
    longest_transaction: float  # seconds

    @property
    def changed(self) -> int:
        """Rows that changed something."""
        return self.new + self.updated + self.unsubscribed + self.now_suppressed


def import_file(
    config: Config,
    path: Path,
    *,
    list: str = "",
    consent: str = "",
    choices: Choices | None = None,
    update: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Brings the people of a file onto a list (default: the workspace's), and says what became of every row.

    `consent` states, in words that are kept, that everybody in the file consented; without it only those are subscribed
    whose rows prove it, the others are unconfirmed. `update` lets names, languages and attributes of the file replace
    those that are there, which otherwise are only filled in. `dry_run` writes nothing at all. Rejected rows go to
    `<path>.rejected.csv`, or into the folder of lists.yaml where that of the file cannot be written.

    Raises `InputError` for a file that cannot be used, `NotFound` for an unknown list, `WrongKey`, `DatabaseDown` (what
    was written stays, and the same import goes on from there), `OSError`.
    """
    begun = time.perf_counter()
    run = _Run(
        config=config,
        path=path,
        onto=list,
        consent=consent.strip(),
        choices=choices or Choices(),
        update=update,
        dry_run=dry_run,
        progress=progress or (lambda stage, done: None),
    )
    with explained():
        check_keys(config)
        plans, passed_over = run.plans()
        with tempfile.TemporaryFile() as file:
            spool = Spool(file, [each.sheet for each in plans], chunk=CHUNK)
            rejects = [written for each in plans for written in run.read(each, spool)]
            run.write(spool)
    counts = run.counts
    return Report(
        file=config.shown(path),
        plans=tuple(plans),
        passed_over=passed_over,
        list=list or config.list,
        dry_run=dry_run,
        rows=run.rows,
        new=counts["new"],
        updated=counts["updated"],
        unchanged=counts["unchanged"],
        unsubscribed=counts["unsubscribed"],
        stay_unsubscribed=counts["stay_unsubscribed"],
        now_suppressed=counts["now_suppressed"],
        suppressed=counts["suppressed"],
        erased=counts["erased"],
        duplicates=counts["duplicates"],
        rejected=counts["rejected"],
        unconfirmed=counts["unconfirmed"],
        confirmed=counts["confirmed"],
        reasons=dict(run.reasons.most_common()),
        examples=tuple(run.examples),
        rejects=tuple(rejects),
        doubts=dict(run.doubts.most_common()),
        seconds=time.perf_counter() - begun,
        longest_transaction=run.longest,
    )


@dataclass(kw_only=True)
class _Run:
    """One import, while it runs."""

    config: Config
    path: Path
    onto: str  # the list, "" for the workspace's
    consent: str
    choices: Choices
    update: bool
    dry_run: bool
    progress: Progress
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, int, str]] = field(default_factory=list)
    doubts: Counter[str] = field(default_factory=Counter)
    tags: Tags = field(default_factory=Tags)
    rows: int = 0
    longest: float = 0.0  # transaction, in seconds
    last: float = 0.0
    lists: dict[str, int] = field(default_factory=dict)  # name → id; "": the one that is imported into
    tag_ids: dict[int, int] = field(default_factory=dict)  # number → id
    event: int | None = None  # id of the consent event
    prepared: bool = False  # tags and event are there
    quiet: bool = False  # the last chunk changed nothing: the next one is looked at without a transaction first
    digest: str = ""

    # --- the file ---

    def plans(self) -> tuple[list[Plan], tuple[str, ...]]:
        """The tables to be imported, those that say who is out first, and the names of those passed over."""
        self._find_list(self.onto or self.config.list, "")
        shown = self.config.shown(self.path)
        sheets = open_sheets(self.path, shown=shown, encoding=self.choices.encoding)
        with self.path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        if len(sheets) == 1:
            return [plan(sheets[0], self.choices)], ()
        plans = []
        for sheet in sheets:
            with suppress(InputError):
                plans.append(plan(sheet, self.choices))
        if any(each.preset for each in plans):  # an export of a known system: its other tables are of other things
            plans = [each for each in plans if each.preset]
        if not plans:
            help = "unpack it, and import the file with the people"
            raise refused(shown, "no table in it has a column that holds addresses", help)
        order = ("blocked", "complained", "bounced", "unsubscribed")
        plans.sort(key=lambda each: order.index(each.status) if each.status in order else len(order))
        taken = {each.sheet.name for each in plans}
        return plans, tuple(sheet.name for sheet in sheets if sheet.name not in taken)

    def read(self, plan: Plan, spool: Spool) -> Iterator[Path]:
        """Reads a table into the spool; gives the file of its rejected rows, if there are any."""
        beside = self.path.parent
        folder = beside if os.access(beside, os.W_OK) else self.config.lists.parent
        with _rejects(None if self.dry_run else folder / self.path.name, plan.sheet) as rejects:

            def reject(line: int, cells: Sequence[str], reason: str) -> None:
                self.counts["rejected"] += 1
                self.rows += 1
                self.reasons[reason] += 1
                if len(self.examples) < SHOWN_REJECTS:
                    self.examples.append((plan.sheet.name, line, reason))
                if rejects:
                    rejects.add(line, cells, reason)

            def broken(line: int, cells: list[str], reason: str) -> None:
                reject(line, [unguarded(cell) for cell in cells] if plan.guarded else cells, reason)

            person = reader(
                plan,
                self.config,
                key_maker(self.config.pepper.encode()),
                consent=bool(self.consent),
                tags=self.tags,
                lists=self._list_of_row,
                doubts=self.doubts,
            )
            rows = Rows(plan.sheet, broken)
            add, read = spool.add, 0
            for cells in rows:
                row = [unguarded(cell) for cell in cells] if plan.guarded else cells
                try:
                    add(person(row))
                except (AddressError, ValueError) as error:
                    if any(cell.strip() for cell in row):
                        reject(rows.line, row, str(error))
                    continue
                read += 1
                if not read % 10_000:
                    spool.flush()
                    self.progress("reading", spool.read(rows.octets))
                    self._check_tags(plan)
            self._check_tags(plan)
            self.rows += read
            spool.end(plan.sheet)
            self.progress("reading", spool.read(0))
            if rejects and (written := rejects.keep()):
                yield written

    def _check_tags(self, plan: Plan) -> None:
        if len(self.tags.names) > MOST_TAGS:
            column = plan.meanings.get("tags", "COLUMN")
            help = f'does the column "{column}" hold tags? If not: --ignore "{column}"'
            raise refused(plan.sheet.name, f"has more than {MOST_TAGS:,} different tags", help)

    def _find_list(self, name: str, alias: str) -> None:
        known = load_lists(self.config).lists
        if not self.dry_run or name not in known:  # an unknown one raises, and tells which there are
            self.lists[alias] = list_id(self.config, name)
        else:
            row = List.objects.filter(name=name).first()
            self.lists[alias] = row.pk if row else -1 - len(self.lists)

    def _list_of_row(self, name: str) -> str:
        """Where a row of our own export goes that names a list: there, unless the command line says otherwise."""
        if self.onto or not name:
            return ""
        if name not in self.lists:
            try:
                self._find_list(name, name)
            except NotFound:
                raise ValueError(f"there is no list {name[:64]!r} in lists.yaml") from None
        return name

    # --- the database ---

    def write(self, spool: Spool) -> None:
        """Compares every chunk with the database, and writes what is missing."""
        self._find_tags()
        chunks = spool.chunks() if connection.vendor == "postgresql" else self._pieces(spool.chunks())
        with closing(_at_once(self._merge, chunks, THREADS[connection.vendor])) as results:
            for chunk, changes in results:
                if changes is None:  # it is the first that needs tags and the event
                    self._prepare()
                made = changes or self._merge(chunk)
                assert made
                self.quiet = not made.any
                self.counts += made.counts
                self.counts["duplicates"] += chunk.repeated
                self.progress("writing", chunk.done)
        if connection.vendor == "postgresql" and self.counts["new"] > 10_000 and not self.dry_run:
            with connection.cursor() as cursor:  # for whoever comes next, soon: a mailing, most likely
                cursor.execute("ANALYZE subscriber, subscription, subscriber_tag")

    def _pieces(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same in pieces that take about `SHORT` to write, by what the last one took."""
        size = CHUNK // 2
        for chunk in chunks:
            start, repeated = 0, chunk.repeated
            while start < len(chunk.people) or repeated:
                self.last = 0.0
                yield Chunk(people=chunk.people[start : start + size], repeated=repeated, done=chunk.done)
                start, repeated = start + size, 0
                if self.last:
                    size = max(FEWEST, min(CHUNK, int(size * min(1.5, SHORT / self.last))))

    def _terms(self) -> Terms:
        return Terms(lists=self.lists, tags=self.tag_ids, update=self.update)

    def _merge(self, chunk: Chunk) -> Changes | None:
        """Brings one chunk into the database, in one transaction; None when tags or the event are needed first.

        Tried again when another writer came in between (on PostgreSQL; SQLite has only one).
        """
        if self.dry_run or self.quiet or not self.prepared:
            changes = merging.compare(chunk.people, self._terms(), lock=False)
            if self.dry_run or not changes.any:
                return changes
            if not self.prepared and changes.any_subscription:
                return None
        for attempt in count(1):
            try:
                with transaction.atomic(), connection.wrap_database_errors:
                    begun = time.perf_counter()
                    changes = merging.compare(chunk.people, self._terms(), lock=True)
                    if changes.any_subscription and not self.prepared:
                        return None
                    if changes.any:
                        merging.apply(changes, self._terms(), event=self.event)
            except (IntegrityError, OperationalError) as error:
                if attempt == RETRIES or not (isinstance(error, IntegrityError) or "deadlock" in str(error)):
                    raise
                time.sleep(0.02 * attempt)
            else:
                self.last = time.perf_counter() - begun
                self.longest = max(self.longest, self.last)
                return changes
        raise AssertionError

    def _find_tags(self) -> None:
        names = self.tags.names
        for start in range(0, len(names), 500):
            found = dict(Tag.objects.filter(name__in=names[start : start + 500]).values_list("name", "pk"))
            numbers = enumerate(names[start : start + 500], start)
            self.tag_ids |= {number: found[name] for number, name in numbers if name in found}

    def _prepare(self) -> None:
        """Sees to it that the tags and the consent event are there that what is written points to."""
        if not self.prepared:
            with transaction.atomic():
                missing = [name for number, name in enumerate(self.tags.names) if number not in self.tag_ids]
                Tag.objects.bulk_create([Tag(name=name) for name in missing], ignore_conflicts=True, batch_size=500)
                self._find_tags()
                self.event = self._consent()
            self.prepared = True

    def _consent(self) -> int:
        """The id of the event for this file and these words: one, however often the import is run."""
        only: Any = next(iter(self.lists.values())) if len(self.lists) == 1 else None
        events = Consent.objects.filter(subscriber=None, kind="import", list_id=only, text=self.consent)
        for event in events.order_by("id"):
            if event.evidence.get("sha256") == self.digest:
                return int(event.pk)
        name = self.path.name if "@" not in self.path.name else f"*{self.path.suffix}"
        return int(
            Consent.objects.create(
                list_id=only,
                kind="import",
                text=self.consent,
                how=f"file {name}",
                evidence={"sha256": self.digest, "rows": self.rows},
                at=now_aware(),
            ).pk
        )


def _at_once(
    work: Callable[[Chunk], Changes | None], chunks: Iterator[Chunk], threads: int
) -> Generator[tuple[Chunk, Changes | None], None, None]:
    """What `work` gives for each chunk, in threads with connections of their own, or here (threads: 0).

    An error ends it once what was begun has ended.
    """
    if not threads:
        with _less_syncing():
            for chunk in chunks:
                yield chunk, work(chunk)
        return
    todo: SimpleQueue[Chunk | None] = SimpleQueue()
    done: SimpleQueue[tuple[Chunk | None, Changes | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            with connection.cursor() as cursor:
                # Tables that were empty a moment ago have no statistics: PostgreSQL would read them whole each time.
                cursor.execute("SET enable_seqscan = off")
            while chunk := todo.get():
                done.put((chunk, work(chunk), None))
        except BaseException as error:
            done.put((None, None, error))
        finally:
            connection.close()

    def result() -> tuple[Chunk, Changes | None]:
        chunk, changes, error = done.get()
        if chunk is None:
            raise error or AssertionError
        return chunk, changes

    workers = [threading.Thread(target=run, name="import") for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        waiting = 0
        for chunk in chunks:
            todo.put(chunk)
            waiting += 1
            if waiting > threads:
                yield result()
                waiting -= 1
        for _ in range(waiting):
            yield result()
    finally:
        for _ in workers:
            todo.put(None)
        for worker in workers:
            worker.join()


@contextmanager
def _less_syncing() -> Iterator[None]:
    """SQLite need not wait for the disk after every chunk: what a power cut may take is whole chunks, which the same
    import brings again. At the end all is on the disk."""
    with connection.cursor() as cursor:
        before = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "wal_autocheckpoint")]
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA wal_autocheckpoint = 4000")  # pages, four times as many as usual
        try:
            yield
        finally:
            for name, value in zip(("synchronous", "wal_autocheckpoint"), before, strict=True):
                cursor.execute(f"PRAGMA {name} = {value}")
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


# --- rejected rows ----------------------------------------------------------------------------------------------------


class _Rejects:
    """A sheet's rejected rows: in a file without a name, so that a killed import leaves no addresses about."""

    def __init__(self, path: Path, sheet: Sheet, file: IO[bytes]) -> None:
        inside = "" if sheet.file == path.name else f".{sheet.file}"
        mended = re.sub(r"\.rejected(-[0-9]+)?\.csv$", "", path.name)  # the file may hold rejected rows of another
        self._target = path.with_name(f"{mended}{inside}.rejected.csv")
        self._file = file
        self._writer = csv.writer(codecs.getwriter("utf-8")(file, "replace"), delimiter=sheet.delimiter)
        self._any = False
        self._columns = [column for column in sheet.columns if column not in REJECT_COLUMNS]
        self._skipped = [place for place, column in enumerate(sheet.columns) if column in REJECT_COLUMNS]

    def add(self, line: int, cells: Sequence[str], reason: str) -> None:
        if not self._any:
            self._file.write(codecs.BOM_UTF8)  # for Excel
            self._writer.writerow([*REJECT_COLUMNS, *map(guarded, self._columns)])
            self._any = True
        kept = (cell for place, cell in enumerate(cells) if place not in self._skipped)
        self._writer.writerow([line, reason, *(guarded(cell.replace("\0", "")) for cell in kept)])

    def keep(self) -> Path | None:
        """Where the rows are now: never in place of a file with other rows, which somebody may have begun to mend."""
        if not self._any:
            return None
        descriptor, name = tempfile.mkstemp(dir=self._target.parent, prefix=f".{self._target.name}.")  # mode 0600
        draft, target = Path(name), self._target
        try:
            with os.fdopen(descriptor, "wb") as file:
                self._file.seek(0)
                shutil.copyfileobj(self._file, file)
            for number in count(2):
                if not target.exists() or cmp(target, draft, shallow=False):
                    break
                target = self._target.with_name(f"{self._target.stem}-{number}.csv")
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
        return target


@contextmanager
def _rejects(path: Path | None, sheet: Sheet) -> Iterator[_Rejects | None]:
    """The rejected rows of a sheet, to be kept beside `path`; None where nothing may be written."""
    with tempfile.TemporaryFile() as file:
        yield _Rejects(path, sheet, file) if path else None
