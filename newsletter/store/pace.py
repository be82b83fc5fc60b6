"""How much may leave through a way out: hourly and daily caps, a rate per second, a warm-up, shared by all machines.

**Caps hold in any window.** In no span of 60 minutes do more than `per_hour` leave and in no 24 hours more than
`per_day`, whatever windows the provider itself counts by: hours of the clock, days of any time zone, the last 24 hours.
A token bucket cannot promise that: full after a quiet night, and refilled while it is emptied, it lets out nearly twice
its size in one window. So caps are counted: what leaves is written down in slots, of a minute for the hour and of a
quarter of an hour for the day, and a slot counts in full as long as any part of it lies in the window. That is never
too many, and at most one slot late. When a slot drops out all of it may leave again.

What counts is the moment at which a message is *taken*, in the transaction that writes down its intent; it leaves in
the seconds that a chunk takes.

**The rate** is a token bucket: it holds what may leave in a second, at least one message.

**Shares.** Issues leave `Pace.oneoff` percent of every cap and of the bucket to single mail. Sign-up confirmations,
which strangers can cause, never take more than a fifth. Other single mail may use all of it.

**Clocks.** Time is what the machine says. Slots up to one span *ahead* count as well, so that caps hold while machines
disagree or a clock is put back; what a clock wrote that was further ahead counts for nothing until then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from django.db import connection, transaction

from newsletter.config import Pace, WarmUp
from newsletter.errors import NotFound

Kind = Literal["issue", "oneoff", "confirm"]

UNLIMITED = 2**31 - 1
"""`Room.count` where nothing limits."""

CONFIRM_SHARE = 5  # confirmations may take one of so many parts
SKEW = 60.0  # seconds that machines' clocks may be apart
DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many may leave now; when none, what stands in the way, and from when on at least one may."""

    count: int
    until: float  # Unix seconds; 0.0: now
    why: str  # "the cap of 300 a day"; "" when there is room


class _Span(NamedTuple):
    """A length of time that a cap counts over, and the slots that it is counted in."""

    name: str
    slots: int
    width: int  # seconds of a slot

    def slot(self, now: float) -> int:
        return int(now // self.width)

    def counted(self, now: float) -> tuple[int, int]:
        """The first and the last slot that count."""
        slot = self.slot(now)
        return slot - self.slots, slot + self.slots

    def gone(self, slot: int) -> float:
        """When a slot counts no more."""
        return float((slot + self.slots + 1) * self.width)


_HOUR = _Span("hour", 60, 60)
_DAY = _Span("day", 96, 900)
_SPANS = (_HOUR, _DAY)


class _Spent(NamedTuple):
    """What left in some slots."""

    issue: int = 0
    oneoff: int = 0
    confirm: int = 0


class _Level(NamedTuple):
    """A row of `bucket`."""

    tokens: float
    at: float


# --- ways out ---------------------------------------------------------------------------------------------------------

_ids: dict[tuple[str, ...], int] = {}  # of rows that are committed, by database and name


def way_id(name: str) -> int:
    """The id of a way out's row, which is made when it is new. Remembered: it costs a query once in a process."""
    settings = connection.settings_dict
    key = (*(str(settings.get(part, "")) for part in ("ENGINE", "NAME", "HOST", "PORT", "OPTIONS")), name)
    if key in _ids:
        return _ids[key]
    with connection.cursor() as cursor:
        # Looked for first: an INSERT that conflicts would use up one of 32,767 numbers each time.
        cursor.execute("SELECT id FROM way WHERE name = %s", (name,))
        row = cursor.fetchone()
        if row is None:
            cursor.execute("INSERT INTO way (name) VALUES (%s) ON CONFLICT (name) DO NOTHING", (name,))
            cursor.execute("SELECT id FROM way WHERE name = %s", (name,))
            row = cursor.fetchone()
    id = int(row[0])
    transaction.on_commit(lambda: _ids.__setitem__(key, id))  # at once when no transaction is open
    return id


def way_names() -> dict[int, str]:
    """The names of all ways out that were ever taken, by their ids."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM way")
        return dict(cursor.fetchall())


# --- taking and giving back -------------------------------------------------------------------------------------------


def take(cursor: Any, way: int, pace: Pace, kind: Kind, wanted: int, now: float) -> int:  # noqa: PLR0917
    """How many of `wanted` may leave now; they are written down as spent.

    Belongs into the transaction that writes down their intent: then both are done or neither. On PostgreSQL the way
    out's row is locked until that ends, so that workers queue; on SQLite a transaction that writes is alone anyway.
    Nothing is read or written when the pace limits nothing.
    """
    if not pace or wanted <= 0:
        return max(wanted, 0)
    _lock(cursor, way)
    gates = list(_gates(pace, kind))
    begun, totals, levels = _counted(cursor, way, now, spans=_limited(pace), rate=bool(gates))
    count = wanted
    for cap in _caps(pace, begun, now):
        count = min(count, _left(cap.most, pace, kind, totals[cap.span.name]))
    for gate in gates:
        count = min(count, gate.left(levels.get(gate.share), now))
    if count < 1:
        return 0
    _spend(cursor, way, kind, count, now)
    for gate in gates:
        _fill(cursor, way, gate, levels.get(gate.share), by=-count, now=now)
    # A warm-up that began long after now was begun by a wrong clock.
    if pace.warm_up and (begun is None or begun - now > DAY):
        cursor.execute("UPDATE way SET begun_at = %s WHERE id = %s", (now, way))
    return count


def give_back(
    cursor: Any,
    way: int,
    pace: Pace,
    kind: Kind,
    count: int,
    *,
    taken_at: float,
    now: float,
    then: int | None = None,
) -> None:
    """What was taken at `taken_at` (the `now` of that `take`) and certainly did not leave counts no more.

    `then` is the way out from which the same transaction is about to `take`.
    The rate gets back only what was not refilled since: else messages that waited could leave on top of a full bucket.
    """
    if not pace or count <= 0:
        return
    _lock(cursor, way, *([] if then is None else [then]))  # before anything else, as `take` does
    column = str(kind)
    for span in _SPANS:
        slot = span.slot(taken_at)
        first, last = span.counted(now)
        if first <= slot <= last:
            cursor.execute(
                f"UPDATE spending SET {column} = CASE WHEN {column} > %s THEN {column} - %s ELSE 0 END"
                " WHERE way_id = %s AND span = %s AND slot = %s",
                (count, count, way, span.name, slot),
            )
    gates = list(_gates(pace, kind)) if taken_at <= now else []
    _, _, levels = _counted(cursor, way, now, spans=(), rate=bool(gates))
    for gate in gates:
        missing = count - (now - taken_at) * gate.rate
        if gate.share in levels and missing > 0:
            _fill(cursor, way, gate, levels[gate.share], by=missing, now=now)


def _lock(cursor: Any, *ways: int) -> None:
    """A statement of its own: one that had to wait for the lock would still see what was counted before.

    Several in the order of their ids: else two transactions that need the same could wait for each other.
    """
    if connection.vendor == "postgresql":
        cursor.execute("SELECT id FROM way WHERE id = ANY(%s) ORDER BY id FOR UPDATE", ([*ways],))


def _counted(
    cursor: Any, way: int, now: float, *, spans: Sequence[_Span], rate: bool
) -> tuple[float | None, dict[str, _Spent], dict[str, _Level]]:
    """When the warm-up began, what left in each span, and how full the buckets are: in one statement."""
    parts, values = ["SELECT 'begun', begun_at, 0, 0 FROM way WHERE id = %s"], [way]
    for span in spans:
        parts.append(
            f"SELECT '{span.name}', sum(issue), sum(oneoff), sum(confirm) FROM spending"
            f" WHERE way_id = %s AND span = '{span.name}' AND slot BETWEEN %s AND %s"
        )
        values += (way, *span.counted(now))
    if rate:
        parts.append("SELECT share, tokens, at, 0 FROM bucket WHERE way_id = %s")
        values.append(way)
    cursor.execute(" UNION ALL ".join(parts), values)
    rows = {name: row for name, *row in cursor.fetchall()}
    if "begun" not in rows:
        raise NotFound(f"way out {way}: not in this database; was it restored while this process ran? Start it again")
    begun = rows.pop("begun")[0]
    totals = {span.name: _Spent(*(int(each or 0) for each in rows.pop(span.name))) for span in spans}
    return begun, totals, {share: _Level(tokens, at) for share, (tokens, at, _) in rows.items()}


def _spend(cursor: Any, way: int, kind: Kind, count: int, now: float) -> None:
    """Into both spans, whichever has a cap: one that is set later then knows what left before."""
    row = tuple(count if kind == each else 0 for each in _Spent._fields)
    cursor.execute(
        "INSERT INTO spending (way_id, span, slot, issue, oneoff, confirm)"
        " VALUES (%s, %s, %s, %s, %s, %s), (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (way_id, span, slot) DO UPDATE SET issue = spending.issue + excluded.issue,"
        " oneoff = spending.oneoff + excluded.oneoff, confirm = spending.confirm + excluded.confirm",
        [value for span in _SPANS for value in (way, span.name, span.slot(now), *row)],
    )


# --- caps -------------------------------------------------------------------------------------------------------------


class _Cap(NamedTuple):
    span: _Span
    most: int
    words: str


def _limited(pace: Pace) -> list[_Span]:
    """The spans that have a cap, or may have one."""
    spans = [_HOUR] if pace.per_hour > 0 else []
    return [*spans, _DAY] if pace.per_day > 0 or pace.warm_up else spans


def _caps(pace: Pace, begun: float | None, now: float) -> Iterator[_Cap]:
    """The caps at this time. A warm-up is a lower one for the day."""
    if pace.per_hour > 0:
        yield _Cap(_HOUR, pace.per_hour, f"the cap of {pace.per_hour:,} an hour")
    day = _day(begun, now)
    warm = _warm(pace.warm_up, day) if pace.warm_up else None
    if warm is not None and (pace.per_day <= 0 or warm < pace.per_day):
        yield _Cap(_DAY, warm, f"the warm-up, which on day {day + 1} allows {warm:,} a day")
    elif pace.per_day > 0:
        yield _Cap(_DAY, pace.per_day, f"the cap of {pace.per_day:,} a day")


@lru_cache(maxsize=512)
def _warm(warm_up: WarmUp, day: int) -> int | None:
    """What a warm-up allows on a day, counted from 0; None when it is over."""
    if day >= warm_up.days:
        return None
    return int(warm_up.first_day * (100 + warm_up.growth) ** day // 100**day)  # floats say 114 for 100 and 15 percent


def _day(begun: float | None, now: float) -> int:
    return 0 if begun is None or begun > now else int((now - begun) // DAY)


def _next_day(pace: Pace, begun: float | None, now: float) -> float:
    """When the warm-up allows more than now; infinity when it never will."""
    day = _day(begun, now)
    if begun is None or pace.warm_up is None or day >= pace.warm_up.days:
        return math.inf
    return _first(max(begun + (day + 1) * DAY, now), lambda at: _day(begun, at) > day)


def _first(at: float, holds: Callable[[float], bool]) -> float:
    """The first time from `at` on, which is right but for rounding, at which something holds."""
    while not holds(at):
        at += max(math.ulp(at), 1e-9)  # the second for times near 1970, whose neighbours are too near
    return at


def _reserve(most: int, pace: Pace) -> int:
    """What issues leave of a cap. Never all of it."""
    return min(-(-most * pace.oneoff // 100), max(most - 1, 0))


def _left(most: int, pace: Pace, kind: Kind, spent: _Spent) -> int:
    """How many of a kind a cap still lets out."""
    left = most - sum(spent)
    if kind == "issue":
        left = min(left, most - _reserve(most, pace) - spent.issue)
    elif kind == "confirm":
        left = min(left, max(most // CONFIRM_SHARE, 1) - spent.confirm)
    return max(left, 0)


def _why(cap: _Cap, pace: Pace, kind: Kind, spent: _Spent) -> str:
    """What stands in the way when a cap lets none of a kind out."""
    if sum(spent) >= cap.most:
        return cap.words
    if kind == "confirm":
        return f"{cap.words} (sign-up confirmations may take a fifth of it)"
    return f"{cap.words} ({_reserve(cap.most, pace):,} of them kept for single mail)"


# --- the rate ---------------------------------------------------------------------------------------------------------


class _Gate(NamedTuple):
    """A token bucket, and how much of it must stay in it."""

    share: str
    rate: float  # a second
    kept: float = 0.0

    @property
    def capacity(self) -> float:
        return max(1.0, self.rate)

    def level(self, row: _Level | None, now: float) -> float:
        """The tokens in it. One whose time lies far ahead was written by a wrong clock: it counts as full."""
        if row is None or row.at - now > SKEW:
            return self.capacity
        return min(self.capacity, row.tokens + max(now - row.at, 0.0) * self.rate)

    def left(self, row: _Level | None, now: float) -> int:
        return max(math.floor(self.level(row, now) - self.kept), 0)

    def opens(self, row: _Level | None, now: float) -> float:
        """When there is a token to take."""
        start = now if row is None else max(row.at, now)
        at = start + max(1.0 + self.kept - self.level(row, start), 0.0) / self.rate
        return _first(at, lambda at: self.left(row, at) > 0)


def _gates(pace: Pace, kind: Kind) -> Iterator[_Gate]:
    """What mail of a kind must get through."""
    if pace.per_second <= 0:
        return
    kept = 0.0
    if kind == "issue" and pace.per_second >= 2:
        kept = min(pace.per_second * pace.oneoff / 100, pace.per_second - 1)
    yield _Gate("all", pace.per_second, kept)
    if kind == "confirm":
        yield _Gate("confirm", pace.per_second / CONFIRM_SHARE)


def _fill(cursor: Any, way: int, gate: _Gate, row: _Level | None, *, by: float, now: float) -> None:
    tokens = min(gate.level(row, now) + by, gate.capacity)
    at = row.at if row and now < row.at <= now + SKEW else now  # never back a little: it would be refilled twice
    cursor.execute(
        "INSERT INTO bucket (way_id, share, tokens, at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (way_id, share) DO UPDATE SET tokens = excluded.tokens, at = excluded.at",
        (way, gate.share, tokens, at),
    )


# --- looking ahead ----------------------------------------------------------------------------------------------------

_Rows = dict[str, list[tuple[int, _Spent]]]  # span → its slots in order, with what left in each


def room(way: int, pace: Pace, kind: Kind, now: float) -> Room:
    """How many of a kind may leave now, or when the next may if nothing else leaves. Takes no locks.

    Exact: asked at `until`, `take` gives at least one, unless somebody else took it.
    """
    if not pace:
        return Room(count=UNLIMITED, until=0.0, why="")
    begun, rows, levels = _read(way, pace, now)
    count, why, at = UNLIMITED, "", now
    words: dict[str, str] = {}  # as they are now, not as they will be on a later day of the warm-up
    while True:
        later = at
        for cap in _caps(pace, begun, at):
            first, last = cap.span.counted(at)
            counted = [(slot, spent) for slot, spent in rows[cap.span.name] if first <= slot <= last]
            spent = _sum(each for _, each in counted)
            left = _left(cap.most, pace, kind, spent)
            count = min(count, left)
            if left == 0:
                opens = min((cap.span.gone(slot) for slot, each in counted if any(each)), default=math.inf)
                opens = min(opens, _next_day(pace, begun, at)) if cap.span is _DAY else opens
                reason = words.setdefault(cap.span.name, _why(cap, pace, kind, spent))
                if opens > later:
                    later, why = opens, reason
        for gate in _gates(pace, kind):
            left = gate.left(levels.get(gate.share), at)
            count = min(count, left)
            if left == 0:
                opens = gate.opens(levels.get(gate.share), at)
                if opens > later:
                    later, why = opens, f"the rate of {pace.per_second:g} a second"
        if later == at:
            break
        at = later
    return Room(count=count, until=0.0 if count else at, why=why)


def _sum(spent: Iterable[_Spent]) -> _Spent:
    issue = oneoff = confirm = 0
    for each in spent:
        issue += each.issue
        oneoff += each.oneoff
        confirm += each.confirm
    return _Spent(issue, oneoff, confirm)


def _read(way: int, pace: Pace, now: float) -> tuple[float | None, _Rows, dict[str, _Level]]:
    """All that counts now or later, as it is written down."""
    rows: _Rows = {span.name: [] for span in _SPANS}
    with connection.cursor() as cursor:
        begun, _, levels = _counted(cursor, way, now, spans=(), rate=pace.per_second > 0)
        for span in _SPANS:
            cursor.execute(
                "SELECT slot, issue, oneoff, confirm FROM spending"
                " WHERE way_id = %s AND span = %s AND slot >= %s ORDER BY slot",
                (way, span.name, span.counted(now)[0]),
            )
            rows[span.name] = [(slot, _Spent(*counts)) for slot, *counts in cursor.fetchall()]
    return begun, rows, levels


def spent(way: int, now: float) -> dict[str, int]:
    """How many left in the last hour and day, as the caps count them: a slot that is partly in counts in full.

    What left while the way out had no pace was not counted.
    """
    with connection.cursor() as cursor:
        _, totals, _ = _counted(cursor, way, now, spans=_SPANS, rate=False)
        return {name: sum(counts) for name, counts in totals.items()}


def tidy(now: float) -> int:
    """Removes slots that count for nothing any more; says how many. They are kept for one span longer than they count:
    another machine's clock may be behind."""
    removed = 0
    with transaction.atomic(), connection.cursor() as cursor:
        for span in _SPANS:
            oldest = span.counted(now)[0] - span.slots
            cursor.execute("DELETE FROM spending WHERE span = %s AND slot < %s", (span.name, oldest))
            removed += cursor.rowcount
    return removed


# --- forecast ---------------------------------------------------------------------------------------------------------

_STEPS = 50_000  # a forecast that is longer goes on as it went so far


class _Window:
    """What counts for a cap, as a forecast moves on: slots with what left in each, of issues and of all mail."""

    def __init__(self, span: _Span, rows: Iterable[tuple[int, _Spent]], now: float) -> None:
        self.span = span
        last = span.counted(now)[1]
        self._slots = deque((slot, each.issue, sum(each)) for slot, each in rows if slot <= last and any(each))
        self._issues = sum(issues for _, issues, _ in self._slots)
        self._all = sum(all for _, _, all in self._slots)
        self.history_ends = span.gone(self._slots[-1][0]) if self._slots else now

    def left(self, most: int, pace: Pace, now: float) -> int:
        """How many issue messages may leave."""
        first = self.span.slot(now) - self.span.slots
        while self._slots and self._slots[0][0] < first:
            _, issues, all = self._slots.popleft()
            self._issues -= issues
            self._all -= all
        return _left(most, pace, "issue", _Spent(self._issues, self._all - self._issues))

    def add(self, count: int, now: float) -> None:
        slot, issues, all = self.span.slot(now), count, count
        if self._slots and self._slots[-1][0] >= slot:
            slot, before, all_before = self._slots.pop()
            issues, all = before + count, all_before + count
        self._slots.append((slot, issues, all))
        self._issues += count
        self._all += count

    def opens(self) -> float:
        """When the next slot drops out."""
        return self.span.gone(self._slots[0][0]) if self._slots else math.inf

    def shape(self, now: float) -> tuple[tuple[int, int, int], ...]:
        """What it looks like from now: whatever looks the same goes on the same."""
        here = self.span.slot(now)
        return tuple((slot - here, issues, all) for slot, issues, all in self._slots)

    def shift(self, seconds: float) -> None:
        by = round(seconds) // self.span.width
        self._slots = deque((slot + by, issues, all) for slot, issues, all in self._slots)


def forecast(way: int, pace: Pace, count: int, now: float) -> float:
    """When the last of `count` issue messages may leave (Unix seconds): with a provider that takes them at once, and
    nobody else who sends. `now` when nothing limits.

    Goes from one moment at which more may leave to the next, until what is counted looks as it did before: from then on
    it repeats itself, and whole rounds are skipped. So years take no longer than a few days.
    """
    if count <= 0 or not pace:
        return now
    begun, rows, levels = _read(way, pace, now)
    windows = {span.name: _Window(span, rows[span.name], now) for span in _SPANS}
    gate = next(_gates(pace, "issue"), None)
    tokens, full = math.inf, math.inf  # that issues may take
    if gate:
        tokens, full = gate.level(levels.get(gate.share), now) - gate.kept, gate.capacity - gate.kept
    rate = gate.rate if gate else 0.0
    at, remaining = now, count
    seen: dict[object, tuple[float, int]] | None = {}
    for _ in range(_STEPS):
        caps = list(_caps(pace, begun, at))
        if not caps or (gate and _never_bind(caps, pace, gate, windows, at)):
            return _last(at, remaining, tokens, rate)
        closed = [cap for cap in caps if windows[cap.span.name].left(cap.most, pace, at) < 1]
        if closed:
            later = at
            for cap in closed:
                opens = windows[cap.span.name].opens()
                later = max(later, min(opens, _next_day(pace, begun, at)) if cap.span is _DAY else opens)
            tokens = min(full, tokens + (later - at) * rate)
            at = later
            if seen is not None and (not pace.warm_up or _day(begun, at) >= pace.warm_up.days):
                key = (at % _DAY.width, round(tokens, 6), *(windows[cap.span.name].shape(at) for cap in caps))
                if key in seen:
                    then, left_then = seen[key]
                    rounds = (remaining - 1) // max(left_then - remaining, 1)
                    remaining -= rounds * (left_then - remaining)
                    for window in windows.values():
                        window.shift(rounds * (at - then))
                    at += rounds * (at - then)
                    seen = None
                else:
                    seen[key] = (at, remaining)
            continue
        if tokens < 1:
            at, tokens = max(at + (1 - tokens) / rate, math.nextafter(at, math.inf)), 1.0
            continue
        most = min(remaining, *(windows[cap.span.name].left(cap.most, pace, at) for cap in caps))
        edge = at
        if gate:  # until the slot ends as many as the rate lets out
            width = min(cap.span.width for cap in caps)
            edge = min((at // width + 1) * width, _next_day(pace, begun, at))
            most = min(most, max(math.floor(tokens), math.ceil(tokens + (edge - at) * rate) - 1))
        if most == remaining:
            return _last(at, remaining, tokens, rate)
        if pace.warm_up and (begun is None or begun - at > DAY):
            begun = at
        for cap in caps:
            windows[cap.span.name].add(most, at)
        remaining -= most
        tokens = min(full, tokens + (edge - at) * rate - most) if gate else tokens
        at = edge
    return at + (at - now) * remaining / max(count - remaining, 1)


def _last(at: float, remaining: int, tokens: float, rate: float) -> float:
    """When the last of `remaining` leaves if only the rate limits."""
    return at + (remaining - tokens) / rate if remaining > tokens else at


def _never_bind(caps: list[_Cap], pace: Pace, gate: _Gate, windows: dict[str, _Window], now: float) -> bool:
    """Whether the rate alone keeps within all caps from now on, once what was spent before is forgotten."""
    for cap in caps:
        most = gate.capacity + gate.rate * (cap.span.slots + 1) * cap.span.width
        if now < windows[cap.span.name].history_ends or most > cap.most - _reserve(cap.most, pace):
            return False
    return True
