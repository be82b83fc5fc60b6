"""People between reading and writing: in a temporary file, parted by the first octets of their keys.

So all rows about a person meet in one chunk, whatever lies between them in the file, and a chunk's keys are neighbours.
"""

from __future__ import annotations

import json
import marshal
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from newsletter.store.columns import Person
from newsletter.store.sheets import Sheet


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """People with neighbouring keys, in the order of these."""

    people: Sequence[Person]
    repeated: int  # rows about somebody of whom another row speaks
    done: float  # how much of all is done with it, from 0 to 1


class Spool:
    """A temporary file of the people in some sheets, to come out as chunks of about `chunk` of them."""

    def __init__(self, file: IO[bytes], sheets: Sequence[Sheet], *, chunk: int) -> None:
        self._file, self._chunk = file, chunk
        self._sizes = sum(sheet.size for sheet in sheets)
        self._ended = 0  # octets of the tables that were read
        rows = sum(sheet.size // sheet.row_size for sheet in sheets)
        self._parts = parts = max(1, min(65_536, rows // chunk))
        self._waiting: list[list[Person]] = [[] for _ in range(parts)]
        self._places = [array("Q") for _ in range(parts)]  # where in the file pieces of a part begin
        self._flushed = self._count = 0
        waiting = self._waiting

        def add(person: Person) -> None:
            key = person[0]
            waiting[(key[0] << 8 | key[1]) * parts >> 16].append(person)

        self.add = add

    def flush(self) -> None:
        """To be called now and then; writes when enough waits for pieces to be large."""
        self._count += 1
        if self._count * 10_000 >= 20 * self._parts:
            self._write()

    def _write(self) -> None:
        self._count = 0
        place = self._file.tell()
        for part, people in enumerate(self._waiting):
            if people:
                piece = marshal.dumps(people)
                self._file.write(len(piece).to_bytes(4, "big") + piece)
                self._places[part].append(place)
                place += 4 + len(piece)
                people.clear()

    def end(self, sheet: Sheet) -> None:
        """A table was read to its end."""
        self._ended += sheet.size

    def read(self, octets: int) -> float:
        """How much of the tables was read, from 0 to 1, being so far into the present one."""
        return min(1.0, (self._ended + octets) / max(1, self._sizes))

    def chunks(self) -> Iterator[Chunk]:
        """Everybody, in the order of their keys, all rows of one merged."""
        self._write()
        for part, places in enumerate(self._places):
            people: dict[bytes, Person] = {}
            repeated = 0
            for place in places:
                self._file.seek(place)
                length = int.from_bytes(self._file.read(4), "big")
                for person in marshal.loads(self._file.read(length)):  # noqa: S302 - our own file, seen by nobody else
                    if person[0] in people:
                        people[person[0]], again = _merged(people[person[0]], person)
                        repeated += again
                    else:
                        people[person[0]] = person
            chunk = sorted(people.values())  # by key: no two are alike
            done = (part + 1) / self._parts
            del people
            for start in range(0, len(chunk), 2 * self._chunk):  # one, unless rows are far smaller than they seemed
                piece_of_it = chunk[start : start + 2 * self._chunk]
                yield Chunk(people=piece_of_it, repeated=repeated if start == 0 else 0, done=done)


_RANKS = ("", "unconfirmed", "subscribed", "unsubscribed")


def _merged(first: Person, second: Person) -> tuple[Person, int]:
    """What two rows say of one person, and how many rows that makes too many.

    The first row counts, the second fills in. Of two states the later in `_RANKS` counts: proof of consent that one row
    has holds, and so does having left.
    """
    wishes = {wish[0]: wish for wish in first[6]}
    repeated = 0 if second[6] and first[6] else 1
    for wish in second[6]:
        before = wishes.get(wish[0])
        if before is not None:
            repeated += 1
        if before is None or _RANKS.index(wish[1]) > _RANKS.index(before[1]):
            wishes[wish[0]] = wish
    attributes = second[4] if not first[4] else first[4]
    if first[4] and second[4]:
        attributes = json.dumps({**json.loads(second[4]), **json.loads(first[4])})
    reasons = {first[7], second[7]} - {""}
    reason = next((each for each in ("complaint", "manual", "bounce") if each in reasons), "")
    return (
        *first[:2],
        first[2] or second[2],
        first[3] or second[3],
        attributes,
        tuple(dict.fromkeys(first[5] + second[5])),
        tuple(wishes.values()),
        reason,
    ), repeated
