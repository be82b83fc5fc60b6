"""When a mailing will be done: from how fast mail left this way last, and from what may leave at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from newsletter.cli.output import plural
from newsletter.config import Config, Pace, Smtp
from newsletter.moments import span

SMTP_SECONDS = 0.2  # for one message over one connection, assumed where nothing is known yet


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """How long so many messages will take. `seconds` is None where nothing tells."""

    seconds: float | None
    words: str


def outlook(config: Config, total: int) -> Outlook:
    """How long `total` messages of an issue will take over the first way out, if they began now."""
    if not total:
        return Outlook(seconds=0.0, words="no time at all")
    way = config.ways[0]
    paced = _by_pace(config, total, assume=not way.pace)
    if not way.pace:
        return paced
    from newsletter.store import pace

    now = time.time()
    end = pace.forecast(pace.way_id(way.name), way.pace, total, now)
    if end - now <= (paced.seconds or 0.0):
        return paced
    seconds = end - now
    until = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
    return Outlook(seconds=seconds, words=f"until about {until} ({span(seconds)}): {caps(way.pace)} may leave")


def _by_pace(config: Config, total: int, *, assume: bool) -> Outlook:
    """From the last mailing. Without one, `assume` says what is usual for a mail server."""
    from newsletter.store.overview import last_pace

    settings = config.ways[0].settings
    # What left under a cap says nothing of how fast it could have.
    if assume and (last := last_pace(config.route)):
        seconds = total / last.per_second
        words = f"about {span(seconds)}, at the pace of mailing {last.mailing} ({last.per_second:,.1f} a second)"
        return Outlook(seconds=seconds, words=words)
    if isinstance(settings, Smtp):
        seconds = total * SMTP_SECONDS / settings.connections
        words = (
            f"about {span(seconds)}, an estimate: nothing tells yet how fast this server is; {SMTP_SECONDS} seconds a "
            f"message over {plural(settings.connections, 'connection')} are assumed"
        )
        return Outlook(seconds=seconds, words=words)
    return Outlook(seconds=None, words="unknown: nothing has left this way yet")


def caps(pace: Pace) -> str:
    """ "at most 100 an hour and 300 a day, fewer during the warm-up,": what a way out lets through."""
    limits = [f"{pace.per_second:g} a second"] if pace.per_second else []
    limits += [f"{pace.per_hour:,} an hour"] if pace.per_hour else []
    limits += [f"{pace.per_day:,} a day"] if pace.per_day else []
    words = f"at most {', '.join(limits[:-1])}{' and ' if limits[1:] else ''}{limits[-1]}" if limits else ""
    if not pace.warm_up:
        return words
    warm = f"{pace.warm_up.first_day:,} on the first day of the warm-up and more on each day after it"
    return f"{words}, and {warm}," if words else f"at most {warm},"
