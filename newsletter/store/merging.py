"""A chunk of people compared with the database, and what is missing written: the hot part of an import.

`compare` decides for every person in plain Python, from a few queries for all of them; `apply` writes the difference.
So a dry run says exactly what a run would do. Ids are given out here, which lets every table be filled by one statement
without a table in between: `executemany` on SQLite, COPY on PostgreSQL.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from django.db import connection

from newsletter.store.columns import Person, Wish

Row = tuple[Any, ...]

_GRAVITY = {"bounce": 1, "manual": 2, "complaint": 3, "erased": 4}  # a file makes no suppression lighter


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a comparison depends on besides the people."""

    lists: Mapping[str, int]  # name as in a wish → id
    tags: Mapping[int, int]  # number of a tag → id, for those that the database has
    update: bool  # names, languages, attributes of the file replace those that are there


@dataclass(kw_only=True)
class Changes:
    """What of a chunk is not in the database, and how many rows came to what."""

    counts: Counter[str] = field(default_factory=Counter)
    people: list[Person] = field(default_factory=list)  # in the order of their keys
    subscriptions: list[tuple[int, Wish]] = field(default_factory=list)  # of people who are there
    states: dict[tuple[int, str, str], list[int]] = field(default_factory=dict)  # list, from, to → subscribers
    facts: list[tuple[str, str, str, int]] = field(default_factory=list)  # name, language, attributes, subscriber
    tags: list[tuple[int, int]] = field(default_factory=list)  # number of the tag, subscriber
    suppressions: list[tuple[bytes, str]] = field(default_factory=list)
    graver: list[tuple[bytes, str, str]] = field(default_factory=list)  # key, reason of a suppression, the new one

    @property
    def any(self) -> bool:
        return bool(
            self.people
            or self.subscriptions
            or self.states
            or self.facts
            or self.tags
            or self.suppressions
            or self.graver
        )

    @property
    def any_subscription(self) -> bool:
        """Whether something would be written that points to a consent event or to tags."""
        return bool(self.people or self.subscriptions or self.states or self.tags)


def compare(people: Sequence[Person], terms: Terms, *, lock: bool) -> Changes:
    """What is to be done for people with different keys, in the order of these.

    Nobody comes back who left: not who unsubscribed here, is suppressed or was erased. `lock` keeps others from
    changing the people who are there until the transaction ends.
    """
    changes = Changes()
    counts = changes.counts
    known = _Known.of(people, lock=lock)
    suppressed, subscribers = known.suppressed, known.subscribers
    if not suppressed and not subscribers and all(person[7] == "" for person in people):  # usual in a new database
        changes.people = [*people]
        for person in people:
            for _, state, _ in person[6]:
                counts[state] += 1
        counts["new"] = counts.pop("subscribed", 0) + counts["unconfirmed"] + counts.pop("", 0)
        return changes

    for person in people:
        key, _, name, language, attributes, tags, wishes, reason = person
        held = suppressed.get(key)
        there = subscribers.get(key)
        all_count_as = ""
        if held is not None or reason:
            if held is None:
                changes.suppressions.append((key, reason))
                all_count_as = "now_suppressed"
            elif _GRAVITY.get(reason, 0) > _GRAVITY[held]:
                changes.graver.append((key, held, reason))
                all_count_as = "now_suppressed"
            else:
                all_count_as = "erased" if held == "erased" else "unchanged" if reason else "suppressed"
            if held is not None or not wishes:
                # Should the suppression be lifted one day, who left according to the file has left.
                for wish in wishes:
                    if there and _outcome(there, wish, known, terms) == "unsubscribed":
                        _change(changes, there, wish, known, terms)
                        counts["unsubscribed"] += 1
                        counts[all_count_as] -= 1
                counts[all_count_as] += max(1, len(wishes))
                continue
        if there is None:
            changes.people.append(person)
            for _, state, _ in wishes:
                counts[all_count_as or ("unsubscribed" if state == "unsubscribed" else "new")] += 1
                counts["unconfirmed"] += state == "unconfirmed" and not all_count_as
            continue

        outcomes = [_outcome(there, wish, known, terms) for wish in wishes]
        if any(outcome != "stay_unsubscribed" for outcome in outcomes):
            for wish, outcome in zip(wishes, outcomes, strict=True):
                if outcome == "new":
                    changes.subscriptions.append((there[0], wish))
                elif outcome in ("unsubscribed", "confirmed"):
                    _change(changes, there, wish, known, terms)
            fresh = [tag for tag in tags if terms.tags.get(tag) not in known.tags.get(there[0], ())]
            changes.tags += [(tag, there[0]) for tag in fresh]
            facts = _facts(there, name, language, attributes, update=terms.update)
            if facts:
                changes.facts.append((*facts, there[0]))
            if fresh or facts:
                outcomes = ["updated" if outcome == "unchanged" else outcome for outcome in outcomes]
        for wish, outcome in zip(wishes, outcomes, strict=True):
            if all_count_as:
                counts[all_count_as] += 1
            elif outcome == "new":
                counts["unsubscribed" if wish[1] == "unsubscribed" else "new"] += 1
                counts["unconfirmed"] += wish[1] == "unconfirmed"
            elif outcome == "confirmed":
                counts["updated"] += 1
                counts["confirmed"] += 1
            else:
                counts[outcome] += 1
    return changes


def _outcome(there: Row, wish: Wish, known: _Known, terms: Terms) -> str:
    """What a wish comes to for somebody who is there."""
    name, state, _ = wish
    if not state:
        return "unchanged"
    now = known.states.get((there[0], terms.lists[name]))
    if now is None:
        return "new"
    if now == state:
        return "unchanged"
    if now == "unsubscribed":
        return "stay_unsubscribed"
    if state == "unsubscribed":
        return "unsubscribed"
    return "confirmed" if state == "subscribed" else "unchanged"


def _change(changes: Changes, there: Row, wish: Wish, known: _Known, terms: Terms) -> None:
    list_id = terms.lists[wish[0]]
    change = (list_id, known.states[there[0], list_id], wish[1])
    changes.states.setdefault(change, []).append(there[0])


def _facts(there: Row, name: str, language: str, attributes: str, *, update: bool) -> tuple[str, str, str] | None:
    """Name, language and attributes of somebody as they should be; None when they are so."""
    _, old_name, old_language, old_attributes = there
    if update:
        name, language = name or old_name, language or old_language
    else:
        name, language = old_name or name, old_language or language
    if attributes:
        old, new = json.loads(old_attributes), json.loads(attributes)
        merged = json.dumps({**old, **new} if update else {**new, **old}, sort_keys=True)
        attributes = old_attributes if merged == json.dumps(old, sort_keys=True) else merged
    else:
        attributes = old_attributes
    now = (name, language, attributes)
    return None if now == (old_name, old_language, old_attributes) else now


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the database holds of some people."""

    subscribers: Mapping[bytes, Row]  # key → id, name, language, attributes
    suppressed: Mapping[bytes, str]  # key → reason
    states: Mapping[tuple[int, int], str]  # subscriber, list → state
    tags: Mapping[int, set[int]]  # subscriber → tags

    @classmethod
    def of(cls, people: Sequence[Person], *, lock: bool) -> _Known:
        keys = [person[0] for person in people]
        states: dict[tuple[int, int], str] = {}
        tags: defaultdict[int, set[int]] = defaultdict(set)
        fetch = (_PostgreSQL("") if connection.vendor == "postgresql" else _SQLite("")).fetch
        if not _any_between("subscriber", keys) and not _any_between("suppression", keys):
            return cls(subscribers={}, suppressed={}, states={}, tags={})
        # Whoever is erased at this moment is either waited for here or waits for us; the suppression that an erasure
        # leaves is asked for afterwards, and seen.
        locking = " ORDER BY id FOR NO KEY UPDATE" if lock else ""  # SQLite: nobody else writes
        query = "SELECT address_key, id, name, language, attributes FROM subscriber WHERE"
        subscribers = {row[0]: row[1:] for row in fetch(query, "address_key", keys, locking)}
        query = "SELECT address_key, reason FROM suppression WHERE"
        suppressed = {row[0]: row[1] for row in fetch(query, "address_key", keys)}
        if subscribers:
            ids = [row[0] for row in subscribers.values()]
            query = "SELECT subscriber_id, list_id, state FROM subscription WHERE"
            states = {(who, where): state for who, where, state in fetch(query, "subscriber_id", ids)}
            if any(person[5] for person in people):
                query = "SELECT subscriber_id, tag_id FROM subscriber_tag WHERE"
                for who, tag in fetch(query, "subscriber_id", ids):
                    tags[who].add(tag)
        return cls(subscribers=subscribers, suppressed=suppressed, states=states, tags=tags)


def _any_between(table: str, keys: Sequence[bytes]) -> bool:
    """Whether a table holds any key from the first to the last of these. The keys of a chunk are neighbours, so that in
    a new database this one question answers all."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {table} WHERE address_key BETWEEN %s AND %s LIMIT 1", [keys[0], keys[-1]])
        return cursor.fetchone() is not None


# --- writing ----------------------------------------------------------------------------------------------------------


def apply(changes: Changes, terms: Terms, *, event: int | None) -> None:
    """Writes what `compare` found, in the transaction that is open; subscriptions point to the consent `event`.

    `terms` has the id of every tag by now. Raises `IntegrityError` when another writer was faster.
    """
    now = str(datetime.now(UTC).replace(tzinfo=None))
    database = _PostgreSQL(now) if connection.vendor == "postgresql" else _SQLite(now)
    ids = database.ids(len(changes.people))
    database.add_subscribers(
        [
            (id, key, address, name, language, attributes or "{}")
            for id, (key, address, name, language, attributes, _, _, _) in zip(ids, changes.people, strict=True)
        ]
    )
    wished: defaultdict[tuple[Wish, ...], list[int]] = defaultdict(list)  # few differ, so that many are done at once
    marked: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for id, (_, _, _, _, _, tags, wishes, _) in zip(ids, changes.people, strict=True):
        wished[wishes].append(id)
        if tags:
            marked[tags].append(id)
    subscriptions: defaultdict[tuple[int, str, str], list[int]] = defaultdict(list)
    for wishes, of_these in wished.items():
        for name, state, joined in wishes:
            if state:
                subscriptions[terms.lists[name], state, joined] += of_these
    tagged: defaultdict[int, list[int]] = defaultdict(list)
    for tags, of_these in marked.items():
        for tag in tags:
            tagged[tag] += of_these
    for id, (name, state, joined) in changes.subscriptions:
        subscriptions[terms.lists[name], state, joined].append(id)
    for tag, id in changes.tags:
        tagged[tag].append(id)
    database.add_subscriptions({group: sorted(of_these) for group, of_these in subscriptions.items()}, event)
    database.add_tags({terms.tags[tag]: sorted(of_these) for tag, of_these in tagged.items()})
    for (list_id, old, new), ids in changes.states.items():
        values = (new, event, database.time(now), list_id, old)
        change = (
            "UPDATE subscription SET state = %s, consent_id = %s, changed_at = %s WHERE list_id = %s AND state = %s"
        )
        database.execute(f"{change} AND", values, "subscriber_id", ids)
    with connection.cursor() as cursor:
        if changes.facts:
            cursor.executemany(
                "UPDATE subscriber SET name = %s, language = %s, attributes = %s WHERE id = %s", changes.facts
            )
        if changes.suppressions:
            cursor.executemany(
                "INSERT INTO suppression (address_key, reason, note, at) VALUES (%s, %s, 'import', %s)"
                " ON CONFLICT DO NOTHING",
                [(key, reason, database.time(now)) for key, reason in changes.suppressions],
            )
        if changes.graver:
            cursor.executemany(
                "UPDATE suppression SET reason = %s WHERE address_key = %s AND reason = %s",
                [(reason, key, held) for key, held, reason in changes.graver],
            )


_FEW = 20  # below, rows of their own cost less than a statement for all


class _SQLite:
    """Large statements: one row a statement costs SQLite three times as much, most of it for its sequences."""

    ROWS = 100  # in one statement

    def __init__(self, now: str) -> None:
        self._now = now
        connection.ensure_connection()
        self._raw = connection.connection  # Django's cursor would look for %s in every large statement

    def time(self, text: str) -> str:
        return text

    def fetch(self, query: str, column: str, values: Sequence[Any], end: str = "") -> list[Row]:
        rows: list[Row] = []
        for part in self._parts(values):
            rows += self._raw.execute(f"{query} {column} IN ({self._places})", part)
        return rows

    def execute(self, change: str, values: Row, column: str, ids: Sequence[Any]) -> None:
        for part in self._parts(ids):
            self._raw.execute(f"{change.replace('%s', '?')} {column} IN ({self._places})", (*values, *part))

    _SIZE = 500
    _places = ", ".join("?" * _SIZE)

    def _parts(self, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """The values, always as many at once, so that SQLite keeps one statement ready and not one for each size."""
        for start in range(0, len(values), self._SIZE):
            part = values[start : start + self._SIZE]
            yield (*part, *[part[-1]] * (self._SIZE - len(part)))

    def ids(self, count: int) -> Sequence[int]:
        """Ids for so many new subscribers, which nobody else gets: SQLite has one writer at a time."""
        row = self._raw.execute("SELECT seq FROM sqlite_sequence WHERE name = 'subscriber'").fetchone()
        first = (row[0] if row else 0) + 1
        return range(first, first + count)

    def add_subscribers(self, rows: Sequence[Row]) -> None:
        table = "subscriber (id, address_key, address, name, language, attributes, created_at)"
        self._insert(table, rows, f", '{self._now}'")

    def add_subscriptions(self, groups: Mapping[tuple[int, str, str], Sequence[int]], event: int | None) -> None:
        rows: list[Row] = []
        for (list_id, state, joined), ids in groups.items():
            if len(ids) < _FEW:
                rows += [(list_id, state, joined or self._now, id) for id in ids]
                continue
            self._raw.execute(
                "INSERT INTO subscription (list_id, subscriber_id, state, consent_id, joined_at, changed_at)"
                " SELECT ?, value, ?, ?, ?, ? FROM json_each(?)",
                (list_id, state, event, joined or self._now, self._now, _json(ids)),
            )
        rows.sort(key=lambda row: row[3])
        table = "subscription (list_id, state, joined_at, subscriber_id, consent_id, changed_at)"
        self._insert(table, rows, f", {event}, '{self._now}'")

    def add_tags(self, groups: Mapping[int, Sequence[int]]) -> None:
        rows: list[Row] = []
        for tag, ids in sorted(groups.items()):  # as the index is sorted
            if len(ids) < _FEW:
                rows += [(tag, id) for id in ids]
            else:
                query = "INSERT INTO subscriber_tag (tag_id, subscriber_id) SELECT ?, value FROM json_each(?)"
                self._raw.execute(query, (tag, _json(ids)))
        self._insert("subscriber_tag (tag_id, subscriber_id)", rows)

    def _insert(self, table: str, rows: Sequence[Row], constants: str = "") -> None:
        """Rows of the same width; `constants` is SQL for the last columns, the same in each."""
        for start in range(0, len(rows), self.ROWS):
            part = rows[start : start + self.ROWS]
            one = f"({', '.join('?' * len(part[0]))}{constants})"
            values = list(chain.from_iterable(part))
            self._raw.execute(f"INSERT INTO {table} VALUES {', '.join([one] * len(part))}", values)


def _json(ids: Sequence[int]) -> str:
    return f"[{','.join(map(str, ids))}]"


class _PostgreSQL:
    """COPY for rows that differ, one INSERT for what many rows share."""

    def __init__(self, now: str) -> None:
        self._now = f"{now}+00"

    def time(self, text: str) -> str:
        return f"{text}+00"

    def fetch(self, query: str, column: str, values: Sequence[Any], end: str = "") -> list[Row]:
        with connection.cursor() as cursor:
            cursor.execute(f"{query} {column} = ANY({_array(values)}){end}")
            rows: list[Row] = cursor.fetchall()
            return rows

    def execute(self, change: str, values: Row, column: str, ids: Sequence[Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"{change} {column} = ANY({_array(ids)})", values)

    def ids(self, count: int) -> Sequence[int]:
        """Ids for so many new subscribers, which nobody else gets."""
        with connection.cursor() as cursor:
            # Asked for the name in every row, PostgreSQL would look it up in every row.
            cursor.execute("SELECT pg_get_serial_sequence('subscriber', 'id')")
            (sequence,) = cursor.fetchone()
            cursor.execute("SELECT nextval(%s::regclass) FROM generate_series(1, %s)", [sequence, count])
            return [id for (id,) in cursor.fetchall()]

    def add_subscribers(self, rows: Sequence[Row]) -> None:
        self._copy(
            "subscriber (id, address_key, address, name, language, attributes, created_at)",
            (
                f"{id}\t\\\\x{key.hex()}\t{address}\t{_copied(name)}\t{language}\t{_copied(attributes)}\t{self._now}\n"
                for id, key, address, name, language, attributes in rows
            ),
        )

    def add_subscriptions(self, groups: Mapping[tuple[int, str, str], Sequence[int]], event: int | None) -> None:
        rows: list[str] = []
        with connection.cursor() as cursor:
            for (list_id, state, joined), ids in groups.items():
                at = f"{joined}+00" if joined else self._now
                if len(ids) < _FEW:
                    rows += [f"{list_id}\t{id}\t{state}\t{event}\t{at}\t{self._now}\n" for id in ids]
                    continue
                cursor.execute(
                    "INSERT INTO subscription (list_id, subscriber_id, state, consent_id, joined_at, changed_at)"
                    f" SELECT %s, unnest({_array(ids)}), %s, %s, %s, %s",
                    (list_id, state, event, at, self._now),
                )
        self._copy("subscription (list_id, subscriber_id, state, consent_id, joined_at, changed_at)", rows)

    def add_tags(self, groups: Mapping[int, Sequence[int]]) -> None:
        rows: list[str] = []
        with connection.cursor() as cursor:
            for tag, ids in sorted(groups.items()):
                if len(ids) < _FEW:
                    rows += [f"{tag}\t{id}\n" for id in ids]
                else:
                    query = "INSERT INTO subscriber_tag (tag_id, subscriber_id) SELECT %s"
                    cursor.execute(f"{query}, unnest({_array(ids)})", [tag])
        self._copy("subscriber_tag (tag_id, subscriber_id)", rows)

    def _copy(self, table: str, lines: Iterable[str]) -> None:
        text = "".join(lines)
        if text:
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(text)


def _copied(text: str) -> str:
    """A text for COPY. None of ours holds a tab or a line end; only a backslash needs care."""
    return text.replace("\\", "\\\\") if "\\" in text else text


def _array(values: Sequence[Any]) -> str:
    """SQL for an array of ids or keys: psycopg takes six times as long to write one."""
    if isinstance(values[0], int):
        return f"'{{{','.join(map(str, values))}}}'::bigint[]"
    return f"""'{{{",".join([f'"{_BACKSLASHES}x{key.hex()}"' for key in values])}}}'::bytea[]"""


_BACKSLASHES = chr(92) * 2
