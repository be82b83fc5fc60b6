"""Which way out the next chunk takes: the first in order that can be reached, within what may leave at all.

A `Route` is what one worker knows of its ways out. A way that failed rests, twice as long each time; then one lane
tries it with a few messages while the others go on over the next way. Caps are no failure: what has no room waits. A
fallback is there for a way that cannot be reached, and not to send more than was allowed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from newsletter.providers import WayOut
from newsletter.store import pace
from newsletter.store.pace import Kind

AHEAD = 5.0  # seconds of sending that may be handed to the lanes: how soon a pause or an unsubscribe takes effect
FIRST_PACE = 20.0  # messages per second, assumed until the first chunk has shown the true pace
LONGEST_REST = 60.0  # seconds between two tries of a way that cannot be reached
LONGEST_DATE = 3600.0  # seconds for which a provider may tell us to stay away
PROBE = 10  # messages with which a way that failed is tried
MOST_LOST = 5  # tries in a row whose answers were lost, after which a human must look at an only way out
LOOK_AGAIN = 30.0  # seconds after which a cap is looked at again: what did not leave may have been given back


@dataclass(frozen=True, kw_only=True)
class Full:
    """Why no more mail of a kind may leave for now."""

    why: str
    opens: float  # when the first of it may leave
    look_at: float  # when to ask again


def _over(full: Full, now: float) -> bool:
    """Whether to ask again. What is to be looked at later than ever was put down before the clock was put back."""
    return not now < full.look_at <= now + LOOK_AGAIN


class Leg:
    """One way out, as this worker knows it."""

    def __init__(self, way: WayOut, clock: Callable[[], float]) -> None:
        self.way, self.name = way, way.name
        self.id = pace.way_id(way.name)
        self.failures = self.lost = 0  # in a row; those of which the answer was lost
        self.why = ""  # … it failed
        self.rests_until = 0.0
        self.tried_by: int | None = None  # the lane that looks whether it is back
        self.full: dict[Kind, Full] = {}
        self.clock = clock
        self._per_second = FIRST_PACE
        self._answers: list[tuple[float, int]] = []  # when a chunk ended, and its size: what the pace is read from

    def limit(self) -> int:
        """How many to hand over at once: what the provider can take, and no more than a few seconds of sending."""
        limits = self.way.provider.limits
        most = min(limits.chunk, PROBE) if self.failures else limits.chunk
        return max(1, min(most, int(self._per_second * AHEAD / limits.lanes)))

    def count(self, size: int) -> None:
        """Keeps the pace: answers of the last ten seconds. The caller holds the route's lock."""
        now = time.monotonic()
        self._answers.append((now, size))
        while now - self._answers[0][0] > 10:
            self._answers.pop(0)
        span = now - self._answers[0][0]
        counted = sum(each for _, each in self._answers[1:])
        if span > 0.05 and counted:
            self._per_second = counted / span

    def with_room(self, kinds: Collection[Kind]) -> set[Kind]:
        """The kinds of mail for which there is room under the caps, as far as is known.

        The database is asked again about a kind for which there was none; `grant` is what counts.
        """
        now = self.clock()
        return {kind for kind in kinds if not (full := self.full.get(kind)) or (_over(full, now) and self.look(kind))}

    def look(self, kind: Kind) -> bool:
        """Asks the database whether there is room for a kind of mail."""
        now = self.clock()
        room = pace.room(self.id, self.way.pace, kind, now)
        if room.count:
            self.full.pop(kind, None)
        else:
            self.full[kind] = Full(why=room.why, opens=room.until, look_at=min(room.until, now + LOOK_AGAIN))
        return bool(room.count)

    def grant(self, kind: Kind, at: float) -> Callable[[Any, int], int] | None:
        """What `ledger.turn` asks how many of a chunk may leave; None when there are no caps."""
        caps = self.way.pace
        return (lambda cursor, wanted: pace.take(cursor, self.id, caps, kind, wanted, at)) if caps else None

    def refund(self, kind: Kind, taken_at: float, *, then: Leg | None) -> Callable[[Any, int], None] | None:
        """What `ledger.turn` tells how many of a chunk did not leave after all; None when there are no caps.

        `then` is the way that the next chunk takes.
        """
        caps, now = self.way.pace, self.clock()
        if not caps:
            return None
        other = then.id if then and then.way.pace else None
        return lambda cursor, count: pace.give_back(
            cursor, self.id, caps, kind, count, taken_at=taken_at, now=now, then=other
        )


class Route:
    """The ways out of a worker, in order. May be used by all its lanes at once."""

    def __init__(self, ways: Sequence[WayOut], *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is what caps are counted by, in Unix seconds."""
        assert ways, "a worker needs a way out"
        self.legs = [Leg(way, clock) for way in ways]
        self.name = ",".join(way.name for way in ways)
        self.lanes = max(way.provider.limits.lanes for way in ways)
        self._lock = threading.Lock()

    def choose(self, lane: int) -> Leg | None:
        """The way that this lane takes now, or None while there is none for it.

        Lane number `lanes` is one more than any way has, and is every way's. A lane that a way in good health has no
        use for takes none: the next ways are for when it cannot be reached.
        """
        now = time.time()
        with self._lock:
            for leg in self.legs:
                fits = lane < leg.way.provider.limits.lanes or lane == self.lanes
                if not leg.failures:
                    return leg if fits else None
                rests = now < leg.rests_until <= now + LONGEST_DATE  # else the clock was put back since
                if fits and not rests and leg.tried_by in (None, lane):
                    leg.tried_by = lane
                    return leg
        return None

    def leave(self, lane: int) -> None:
        """The lane tries nothing any more."""
        with self._lock:
            for leg in self.legs:
                if leg.tried_by == lane:
                    leg.tried_by = None

    def worked(self, leg: Leg, size: int) -> None:
        """So many messages got a definite answer, and the way can be reached."""
        with self._lock:
            leg.count(size)
            leg.failures, leg.lost, leg.why, leg.rests_until, leg.tried_by = 0, 0, "", 0.0, None

    def failed(
        self, leg: Leg, why: str, *, size: int = 0, retry_after: float | None = None, unsure: bool = False
    ) -> None:
        """The way could not be reached: it rests, for as long as the provider says or twice as long each time.

        `unsure`: it took something and the answer was lost. Since each further try may leave more in doubt, it rests up
        to an hour.
        """
        now = time.time()
        with self._lock:
            leg.count(size)
            leg.tried_by = None
            asked = None if retry_after is None else now + min(LONGEST_DATE, max(1.0, retry_after))
            if now < leg.rests_until <= now + LONGEST_DATE:  # another lane has said so
                leg.rests_until = max(leg.rests_until, asked or 0.0)
                return
            leg.failures += 1
            leg.lost = leg.lost + 1 if unsure else 0
            rest = min(LONGEST_DATE if unsure else LONGEST_REST, 2.0 ** min(leg.failures, 12))
            leg.why, leg.rests_until = why, asked or now + rest

    def silent(self, leg: Leg) -> bool:
        """Whether the only way out has left so many answers out that a human must look."""
        return len(self.legs) == 1 and leg.lost >= MOST_LOST

    def health(self) -> dict[str, dict[str, object]]:
        """Of each way: its state (ready, down, full), why, and until when, in Unix seconds."""
        with self._lock:
            return {leg.name: _health(leg) for leg in self.legs}


def _health(leg: Leg) -> dict[str, object]:
    if leg.failures:
        return {"state": "down", "why": leg.why, "until": leg.rests_until}
    if full := leg.full.get("issue"):
        return {"state": "full", "why": full.why, "until": full.opens}
    return {"state": "ready", "why": "", "until": 0.0}
