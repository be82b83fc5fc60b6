"""The send loop: claim, intent, hand over, result, release. No SQL and no HTTP.

A `Dispatcher` runs as many lanes as its ways out can use at once, each a thread with a batch and a flight recorder of
its own. Which way a chunk takes is the route's business (route.py), and is decided before its intent is written. One
more lane takes one-off mail only, so that a confirmation never waits behind a mailing. The caller's thread keeps the
leases alive (`heartbeat`); `stop` lets every lane finish what is in hand and leaves no doubt behind.

What goes wrong with the database in the middle of a chunk is no lane's business: the recorder stays where it is, and
the duty that reads recorders settles the batch from it as soon as the database answers again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache

from django.db import connection

from newsletter.config import Config
from newsletter.envelope import Recipient
from newsletter.errors import Fenced, InputError, ProviderDown, ProviderError, ProviderRejected, ProviderUnsure
from newsletter.links import Keyring, archive_url, personal_url
from newsletter.providers import Outcome, Recorder, WayOut
from newsletter.providers.smtp_wire import shown
from newsletter.recorder import Lease
from newsletter.rendering.edition import Edition
from newsletter.route import Full, Leg, Route
from newsletter.store import editions, ledger, mailings
from newsletter.store.pace import Kind

LEASE = 60.0  # seconds; longer than a stall, shorter than an operator's patience
IDLE = 0.5  # seconds between two looks for work
STALLED = 5.0  # seconds after which a lane that waits for its last answers lets others have the rest of its batch

ONEOFF: tuple[Kind, ...] = ("confirm", "oneoff")
EVERY: tuple[Kind, ...] = (*ONEOFF, "issue")


@dataclass(kw_only=True)
class Progress:
    """What the lanes of this process did since they began. Read it at any time."""

    answered: int = 0  # messages with a definite answer
    busy: bool = False  # a lane holds a batch
    down: str = ""  # why no way out can be reached at the moment
    down_until: float = 0.0
    detour: str = ""  # why a fallback is taken at the moment
    full: Mapping[Kind, Full] = field(default_factory=dict)  # the caps that keep mail waiting
    trouble: str = ""  # the last thing that went wrong with the ledger itself


@dataclass(kw_only=True)
class _Hand:
    """What a lane holds: kept alive by the heartbeat."""

    lease: Lease
    claim: ledger.Claim
    next: int = 0  # the delivery at which the batch's next chunk begins
    granted_at: float = 0.0  # when the chunk in hand was counted against the caps
    since: float = field(default_factory=time.monotonic)  # when the chunk in hand was begun
    lock: threading.Lock = field(default_factory=threading.Lock)  # one transaction at a time about this batch


class Dispatcher:
    """The lanes of this process. `start` them once, call `heartbeat` at least every ten seconds, `stop` and `join`."""

    def __init__(
        self,
        config: Config,
        ways: Sequence[WayOut],
        *,
        keyring: Keyring,
        store: str,
        mailing: int | None = None,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`store` is the database's id, which the recorders name; `mailing` restricts issues to that one; `clock` is
        what caps are counted by."""
        self.progress = Progress()
        self.route = Route(ways, clock=clock)
        self._config, self._keyring = config, keyring
        self._store, self._mailing, self._lease = store, mailing, lease
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._hands: dict[int, _Hand] = {}  # by lane
        self._bell = threading.Condition()
        self._rung = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"lane {number}", daemon=True)
            for number in range(self.route.lanes + 1)
        ]
        self._edition = lru_cache(maxsize=64)(_edition)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nothing new leaves from now on; what is on its way is waited for."""
        self._stopping.set()
        self.wake()
        with self._lock:
            for hand in self._hands.values():
                hand.lease.stopping = True

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the lanes; False when some are still at work. Call `heartbeat` in between."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def wake(self) -> None:
        """Idle lanes look for work now."""
        with self._bell:
            self._rung += 1
            self._bell.notify_all()

    def busy(self) -> bool:
        """Whether any lane holds a batch."""
        return bool(self._hands)

    def leases(self) -> set[tuple[int, int]]:
        """Batches and epochs that are in hand."""
        with self._lock:
            return {(hand.lease.batch, hand.lease.epoch) for hand in self._hands.values()}

    def heartbeat(self) -> None:
        """Renews the leases in hand. A lane that lost its batch sends nothing more; one that waits for the last answers
        of its chunk gives away the rest of its batch."""
        with self._lock:
            hands = list(self._hands.values())
        for hand in hands:
            if not hand.lock.acquire(blocking=False):
                continue  # its own transaction renews the lease
            try:
                now = time.time()
                if hand.lease.until - now < self._lease * 0.67:
                    hand.lease.until = ledger.renew(hand.claim, lease=self._lease, now=now)
                if time.monotonic() - hand.since > STALLED and hand.claim.first < hand.next <= hand.claim.last:
                    hand.claim = ledger.split(hand.claim, hand.next, lease=self._lease, now=now)
            except Fenced:
                hand.lease.until = 0.0
            finally:
                hand.lock.release()

    # --- one lane -----------------------------------------------------------------------------------------------------

    def _run(self, lane: int) -> None:
        try:
            while not self._stopping.is_set():
                rung, wait = self._rung, IDLE
                try:
                    if self._batch(lane):
                        wait = 0.0
                except Exception as error:  # the database, the disk: said, and tried again
                    self.progress.trouble = said(error)
                    connection.close()
                    wait = 1.0
                if wait:
                    self.route.leave(lane)
                    with self._bell:
                        self._bell.wait_for(lambda before=rung: self._rung != before, wait)  # type: ignore[misc]
        finally:
            connection.close()

    def _batch(self, lane: int) -> bool:
        """One batch from claim to release; False when there was none."""
        way = self.route.choose(lane)
        kinds = way.with_room(ONEOFF if lane == self.route.lanes else EVERY) if way else ()
        self._tell()
        if way is None or not kinds:
            return False
        claim = ledger.claim(
            owner=self.owner,
            lease=self._lease,
            now=time.time(),
            kinds=kinds,
            route=self.route.name,
            mailing=self._mailing,
        )
        if claim is None:
            return False
        lease = Lease(batch=claim.batch, epoch=claim.epoch, until=claim.until, margin=min(2.0, self._lease / 4))
        try:
            recorder = Recorder(self._config.recorders, lease, store=self._store, owner=self.owner)
        except OSError:
            ledger.release(claim, now=time.time())  # nothing was begun
            raise
        settled = False
        try:
            with self._held(lane, lease, claim) as hand:
                edition = self._edition(claim.edition)
                sent: _Sent | None = None
                chunk = self._turn(hand, None, claim.first, way)
                while chunk.due and way:
                    sent = self._send(claim, edition, chunk.due, recorder, way)
                    way = None if sent.halt else self.route.choose(lane)
                    chunk = self._turn(hand, sent, chunk.next, way)
                ledger.release(hand.claim, now=time.time())
                settled = True
        except Fenced:
            return True  # the recorder stays: it is evidence for what is now in doubt
        finally:
            if settled:
                recorder.remove()
            else:
                recorder.close()
        return True

    def _turn(self, hand: _Hand, sent: _Sent | None, start: int, way: Leg | None) -> ledger.Turn:
        """Results of the last chunk and intent for the next, in one transaction. Raises `Fenced`.

        Without a `way`, or when the worker stops, nothing more is intended.
        """
        claim = hand.claim
        if sent and sent.paused:
            _pause(claim.mailing, sent.paused)
        with hand.lock:
            now = time.time()  # before the transaction, which may have to wait: the lease counts from here
            granted_at = way.clock() if way else 0.0
            chunk = ledger.turn(
                claim,
                sent.results if sent else (),
                not_handed_over=sent.not_handed_over if sent else (),
                start=start,
                limit=way.limit() if way and not self._stopping.is_set() else 0,
                lease=self._lease,
                now=now,
                way=way.id if way else None,
                grant=way.grant(claim.share, granted_at) if way else None,
                refund=sent.way.refund(claim.share, hand.granted_at, then=way) if sent else None,
            )
            hand.lease.until = now + self._lease
            hand.next, hand.since, hand.granted_at = chunk.next, time.monotonic(), granted_at
        if chunk.due:
            _remember(self._config, self._store, chunk.due[-1].id, claim.epoch)
        if chunk.full and way:
            way.look(claim.share)
        if sent and any(outcome.state == "refused" for _, outcome in sent.results):
            _pause_when_refused(claim)
        return chunk

    @contextmanager
    def _held(self, lane: int, lease: Lease, claim: ledger.Claim) -> Iterator[_Hand]:
        hand = _Hand(lease=lease, claim=claim, next=claim.first)
        with self._lock:
            lease.stopping = self._stopping.is_set()
            self._hands[lane] = hand
        try:
            yield hand
        finally:
            with self._lock:
                del self._hands[lane]

    def _send(
        self, claim: ledger.Claim, edition: Edition, due: Sequence[ledger.Due], recorder: Recorder, way: Leg
    ) -> _Sent:
        recipients = _recipients(due, edition, self._keyring, self._config.base_url, claim.edition)
        ids = {recipient.key: each.id for recipient, each in zip(recipients, due, strict=True)}
        rejected = ""
        failure: ProviderError | None = None
        try:
            outcomes: Sequence[Outcome] = way.way.provider.send(edition, recipients, recorder)
        except ProviderUnsure as error:
            failure = error  # the next chunk might be lost as well
            known = {outcome.key: outcome for outcome in _outcomes(error)}
            lost = f"the answer was lost: {error}"
            outcomes = [
                known.get(each.key) or Outcome(key=each.key, state="in_doubt", detail=lost) for each in recipients
            ]
        except ProviderRejected as error:
            outcomes, rejected = _outcomes(error), f"the provider rejects it: {error}"
        except InputError as error:
            outcomes, rejected = (), f"it cannot be sent: {error}"
        except ProviderDown as error:
            outcomes, failure = _outcomes(error), error
        except OSError:
            raise  # the disk of the recorder: the next try waits for it
        except Exception as error:
            _pause(claim.mailing, f"the provider failed in a way that nobody foresaw ({said(error)})")
            raise  # the recorder tells what had left
        open_still = recorder.lease.open()
        if open_still and [outcome.key for outcome in outcomes] == [*ids]:  # as a rule: one for each, in their order
            answered, results = {*ids}, tuple(zip(ids.values(), outcomes, strict=True))
        else:
            heard = [outcome for outcome in outcomes if open_still or outcome.state != "deferred"]
            # A deferral after the lease is not a provider's word: we stopped before it left.
            answered, results = {each.key for each in heard}, tuple((ids[each.key], each) for each in heard)
        self._count(way, len(answered), failure, rejected=bool(rejected))
        if failure and self.route.silent(way):
            rejected = f"{way.name} takes messages and does not answer ({failure}): see whether they arrive"
        return _Sent(
            results=results,
            not_handed_over=tuple(id for key, id in ids.items() if key not in answered),
            paused=rejected,
            halt=bool(rejected) or not open_still,
            way=way,
        )

    def _count(self, way: Leg, size: int, failure: ProviderError | None, *, rejected: bool) -> None:
        with self._lock:
            self.progress.answered += size
        if failure:
            unsure = isinstance(failure, ProviderUnsure)
            self.route.failed(way, str(failure), size=size, retry_after=failure.retry_after, unsure=unsure)
        elif size and not rejected:  # of a chunk that was stopped before it left nobody knows whether it could have
            self.route.worked(way, size)
        self._tell()

    def _tell(self) -> None:
        """Brings what the watchers read up to date."""
        progress = self.progress
        failing = [leg for leg in self.route.legs if leg.failures]
        first = failing[0] if failing else None
        if first and len(failing) == len(self.route.legs):
            soonest = min(failing, key=lambda leg: leg.rests_until)
            why = "; ".join(dict.fromkeys(leg.why for leg in failing))
            progress.down, progress.down_until, progress.detour = why, soonest.rests_until, ""
        else:
            progress.down, progress.down_until, progress.detour = "", 0.0, first.why if first else ""
        progress.busy = bool(self._hands)
        takes = next((leg for leg in self.route.legs if not leg.failures), None)
        known = takes.full.copy() if takes else {}  # other lanes write into it meanwhile
        progress.full = {kind: full for kind, full in known.items() if takes and full.opens > takes.clock()}


@dataclass(frozen=True, kw_only=True)
class _Sent:
    results: tuple[tuple[int, Outcome], ...]
    not_handed_over: tuple[int, ...]
    paused: str  # why the mailing must wait for a human, or ""
    halt: bool  # take no other chunk of this batch now
    way: Leg  # which they took


def said(error: Exception) -> str:
    """An error in one line, for people, without addresses. Not more of it: PostgreSQL's second line may show a row."""
    return shown(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _outcomes(error: ProviderError) -> Sequence[Outcome]:
    return [outcome for outcome in error.outcomes if isinstance(outcome, Outcome)]


def _edition(id: int) -> Edition:
    return editions.thawed(mailings.edition_of(id))


def _pause(mailing: int, why: str) -> None:
    mailings.pause(mailing, f"{why}; mend it, then newsletter resume {mailing}")


def _pause_when_refused(claim: ledger.Claim) -> None:
    if claim.kind == "issue" and (counts := ledger.too_many_refused(claim.mailing)):
        refused, answered = counts
        _pause(claim.mailing, f"{refused} of {answered} recipients were refused, so something is wrong with all of it")


def _recipients(
    due: Sequence[ledger.Due], edition: Edition, keyring: Keyring, base_url: str, frozen: int
) -> list[Recipient]:
    """What the provider needs of each delivery: its opaque key, its address, its links. About 2 µs a recipient.

    `frozen` is the id of the edition, which the link to a private one carries: the same for all who get it, since
    mails are forwarded.
    """
    ids = [each.id for each in due]
    keys = keyring.delivery_keys(ids)
    leave, change = keyring.tokens("unsubscribe", ids), keyring.tokens("preferences", ids)
    base = base_url.rstrip("/")
    view = archive_url(base, language=edition.language, issue=edition.key)
    if edition.private:
        view = personal_url(base, keyring, "view", frozen)
    recipients = []
    for each, key, leaving, changing in zip(due, keys, leave, change, strict=True):
        address, name = each.address, each.name
        slots = {
            "UNSUBSCRIBE_URL": f"{base}/u/{leaving}",
            "PREFERENCES_URL": f"{base}/p/{changing}",
            "VIEW_URL": view,
            "NAME": name,
            "ADDRESS": address,
        }
        if each.slots:
            slots |= json.loads(each.slots)
        recipients.append(Recipient(key=key, address=address, name=slots["NAME"], slots=slots))
    return recipients


# --- the tide mark ----------------------------------------------------------------------------------------------------

_MARK = "last-intent"


def _remember(config: Config, store: str, delivery: int, epoch: int) -> None:
    """Notes, outside the database, the last intent of this lane: a database that does not know it is an older copy."""
    path = config.recorders / f"{_MARK}.{os.getpid()}.{threading.get_ident()}"
    with suppress(OSError):
        path.write_text(f"{store} {delivery} {epoch}\n")


def remembered(config: Config, store: str) -> list[tuple[int, int]]:
    """The last intents of this machine's workers, as delivery and epoch. Marks older than the grace period are removed:
    what was sent before them, the grace period watches over."""
    marks = []
    for path in config.recorders.glob(f"{_MARK}.*"):
        with suppress(OSError, ValueError):
            if time.time() - path.stat().st_mtime > config.grace + 3600:
                path.unlink()
                continue
            name, delivery, epoch = path.read_text().split()
            if name == store:
                marks.append((int(delivery), int(epoch)))
    return marks


def forget_marks(config: Config) -> None:
    """After an older copy was noticed: what is sent from now on makes its own marks."""
    for path in config.recorders.glob(f"{_MARK}.*"):
        path.unlink(missing_ok=True)
