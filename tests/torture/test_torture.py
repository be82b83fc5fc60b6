"""The ledger under kill -9, SIGSTOP, full disks and restarts, on both databases (the full size: make torture)."""

from __future__ import annotations

import resource
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from databases import PostgreSQL
from newsletter.config import Config
from torture.rig import Plan, Rig, arrived, doubled
from torture.sink import Sink, Trouble, refuses
from torture.small import SLOW, SMALL, kept


def test_workers_killed_and_stopped_at_random_lose_nobody_and_double_nobody(store: Config) -> None:
    with Rig(store, Plan(people=3000, kills=8, stops=1, trouble=SLOW)) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert (verdict.crashed, verdict.stopped) == (8, 1)
        doubtful = {address for _, address, state, _ in rig.database.deliveries(rig.mailing) if state == "in_doubt"}
        send_doubts_again(rig)
        lines = rig.sink.lines()
        assert rig.database.tally(rig.mailing)[2]["accepted"] == 3000
        assert len(arrived(lines)) == 3000
        assert doubled(lines).keys() <= doubtful  # the operator was told that this may happen


def send_doubts_again(rig: Rig) -> None:
    from django.db import connection

    from newsletter.store import mailings

    mailings.resolve(rig.mailing, again=True, now=time.time(), quarantine=0)
    connection.close()
    rig.start_worker()
    rig.finish()


def test_recorders_lost_with_their_machine_leave_doubts_within_the_bound(store: Config) -> None:
    with Rig(store, replace(SMALL, kills=2, lose_recorders=True)) as rig:
        rig.open()
        rig.run()
        assert kept(rig.judge()).in_doubt


def test_a_stopped_worker_that_wakes_hands_its_evidence_in(store: Config) -> None:
    with Rig(store, replace(SMALL, people=2500)) as rig:
        rig.open()
        rig.start_workers()
        seen = False
        for share in (0.2, 0.4, 0.6):  # it may have had nothing in hand, or (SQLite) have kept everybody from writing
            rig.wait_for_share(share)
            victim = rig.awake()[0]
            rig.stop(victim)
            rig.wait_for("its doubts", lambda victim=victim: rig.doubts() > 0 or not victim.stopped_at)  # type: ignore[misc]
            seen = seen or rig.doubts() > 0
            if seen:
                break
        assert seen
        rig.finish()
        assert kept(rig.judge()).in_doubt == 0


def test_sigterm_leaves_no_doubt_and_the_next_worker_goes_on(store: Config) -> None:
    with Rig(store, SMALL) as rig:
        rig.open()
        rig.start_workers()
        rig.wait_for_share(0.4)
        rig.terminate()
        _, _, tally = rig.database.tally(rig.mailing)
        assert (tally["sending"], tally["in_doubt"]) == (0, 0)
        assert tally["accepted"] == len(arrived(rig.sink.lines())) < 1000
        rig.start_workers()
        rig.finish()
        assert kept(rig.judge()).tally["accepted"] == 1000


def test_the_mail_server_may_be_killed_and_started_again(store: Config) -> None:
    with Rig(store, SMALL) as rig:
        rig.open()
        rig.start_workers()
        for share in (0.3, 0.6):
            rig.wait_for_share(share)
            rig.sink.kill()
            time.sleep(0.5)  # long enough for every connection to fail
            rig.sink.start()
        rig.finish()
        kept(rig.judge(extra_doubts=2 * SMALL.workers * SMALL.connections))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "immediate"])
def test_postgresql_may_be_restarted(store: Config, request: pytest.FixtureRequest, fast: bool) -> None:
    if not store.database_url:
        pytest.skip("SQLite has no server")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    with Rig(store, SMALL) as rig:
        rig.open()
        rig.start_workers()
        rig.wait_for_share(0.3)
        server.stop(fast=fast)
        time.sleep(1.0)
        server.start()
        rig.finish()
        assert kept(rig.judge()).in_doubt == 0


def test_a_database_that_nobody_can_write_for_longer_than_a_lease_costs_nothing_but_time(store: Config) -> None:
    if store.database_url:
        pytest.skip("on PostgreSQL one transaction locks its own rows only")
    with Rig(store, SMALL) as rig:
        rig.open()
        rig.start_workers()
        rig.wait_for_share(0.3)
        with closing(sqlite3.connect(store.database, timeout=30, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            time.sleep(1.5 * SMALL.lease)
            file.execute("ROLLBACK")
        rig.finish()
        assert kept(rig.judge()).in_doubt == 0


@pytest.mark.parametrize("room", [0, 3001], ids=["at once", "in the middle of a line"])
def test_a_full_disk_loses_nobody_and_doubles_nobody(store: Config, room: int) -> None:
    """No file of a worker may grow beyond `room` octets, recorders and (SQLite) the database alike: as on a full disk,
    a write takes what there is room for, or nothing. One worker is killed meanwhile.

    Where neither recorder nor database can be written, an answer has no place to be kept: of each recorder those that
    were on their way may be in doubt.
    """
    with Rig(store, SMALL) as rig:
        rig.open()
        rig.start_workers()
        rig.wait_for_share(0.3)
        workers = rig.awake()
        # On a loaded machine one may still be starting: that would end with an error, as it should.
        rig.wait_for("every worker at work", lambda: all("ready" in each.log.read_text() for each in workers))
        for worker in workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        time.sleep(1.0)
        rig.kill(workers[0])
        time.sleep(1.0)
        for worker in workers[1:]:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rig.start_worker()
        rig.finish()
        lanes = 4
        kept(rig.judge(extra_doubts=len(workers) * lanes * SMALL.connections))


def test_a_troublesome_mail_server_refuses_only_whom_it_refuses(store: Config) -> None:
    trouble = Trouble(
        refuse=0.02,
        defer_rcpt=0.03,
        defer_dot=0.02,
        drop_early=0.01,
        drop_body=0.005,
        drop_lost=0.003,
        drop_taken=0.003,
        hang_lost=0.001,
        hang_taken=0.001,
    )
    with Rig(store, replace(SMALL, people=2000, timeout=2, trouble=trouble)) as rig:
        rig.open()
        rig.start_workers()
        rig.finish()
        verdict = kept(rig.judge())
        refused = {address for _, address, state, _ in rig.database.deliveries(rig.mailing) if state == "refused"}
        assert refused
        assert all(refuses(trouble, address) for address in refused)
        assert verdict.tally["accepted"] + verdict.tally["refused"] + verdict.in_doubt == 2000


@pytest.mark.parametrize("batch", [100, 1000], ids=["many leases", "few leases"])
def test_a_copy_of_the_middle_put_back_after_the_end_sends_nothing_by_itself(store: Config, batch: int) -> None:
    """Within the grace period: what tells is the tide mark beside the recorders."""
    with Rig(store, replace(SMALL, people=1500, batch=batch)) as rig:
        rig.open()
        rig.start_workers()
        rig.wait_for_share(0.5)
        copy = rig.database.copy()
        rig.finish()
        verdict = kept(rig.judge())
        rig.database.put_back(copy)
        state, _, tally = rig.database.tally(rig.mailing)
        assert state == "sending"
        assert tally["pending"]
        rig.start_workers()
        rig.wait_for("the pause or the end", lambda: rig.database.tally(rig.mailing)[0] != "sending")
        time.sleep(1.5)  # a few rounds of every duty
        rig.terminate()
        assert rig.database.tally(rig.mailing)[0] == "paused"
        assert len(rig.sink.lines()) == verdict.messages
        assert not rig.faults


class Aiosmtpd(Sink):
    """aiosmtpd in this process instead of our own server: another's idea of SMTP. Refuses as `trouble` says."""

    def start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refuses(self.trouble, address):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        delivery = content.partition(b"X-Newsletter-Delivery: ")[2].partition(b"\r\n")[0].decode()
        with self.log.open("a") as log:
            for address in envelope.rcpt_tos:
                log.write(f"accepted\t{time.time()}\t{delivery}\t{address}\t{envelope.mail_from}\n")
        return "250 2.0.0 queued as 1"


def test_every_message_arrives_under_its_own_return_path_though_some_recipients_are_refused(store: Config) -> None:
    plan = Plan(people=400, workers=1, trouble=Trouble(refuse=0.05))
    with Rig(store, plan, sink=Aiosmtpd(log=store.root / "sink.log", trouble=plan.trouble)) as rig:
        rig.open()
        rig.start_workers()
        rig.finish()
        verdict = kept(rig.judge())  # compares every return path with the person whose delivery it names
        assert verdict.tally["refused"] > 5
        assert len({line.return_path for line in rig.sink.lines()}) == verdict.tally["accepted"]


def test_the_judge_sees_what_is_wrong(store: Config) -> None:
    """A judge that cannot condemn would be of no use."""
    with Rig(store, Plan(people=50, workers=1)) as rig:
        rig.open()
        rig.start_workers()
        rig.finish()
        kept(rig.judge())
        lines = rig.sink.log.read_text().splitlines(keepends=True)
        first = lines[0].split("\t")
        another = lines[1].split("\t")
        for wrong, fault in (
            (lines[1:], "lost: 1"),
            ([*lines, lines[0]], "doubled: 1"),
            (["\t".join([*first[:2], another[2], *first[3:]]), *lines[1:]], "another's key"),
            (["\t".join([*first[:4], another[4]]), *lines[1:]], "another's return path"),
        ):
            rig.sink.log.write_text("".join(wrong))
            assert any(fault in each for each in rig.judge().faults), fault
        rig.sink.log.write_text("".join(lines))
        rig.plan = replace(rig.plan, people=51)
        assert any("51 people" in each for each in rig.judge().faults)
