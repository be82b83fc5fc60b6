"""The torture over the cluster engine, a network that breaks, and several hosts (the full size: make torture)."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from databases import PostgreSQL
from newsletter.config import Config
from torture.rig import Plan, Rig, hosts_missing, use_sample
from torture.small import REQUESTS, SMALL, kept


def test_the_cluster_loses_and_doubles_nobody(cluster: Config) -> None:
    """Its workers die while they write the recipients down, while they send, and are stopped."""
    with Rig(cluster, Plan(people=3000, kills=4, kills_opening=2, stops=1, lease=2.0, trouble=SMALL.trouble)) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert verdict.left_doing  # dead workers let go of jobs, and others did them


def test_what_newsletter_send_opened_leaves_in_requests_by_the_cluster(cluster: Config) -> None:
    with Rig(use_sample(cluster), replace(REQUESTS, kills=4, kills_opening=1, outages=1)) as rig:
        rig.open_by_command()
        rig.run()
        assert kept(rig.judge()).left_doing


def test_workers_of_the_cluster_that_are_cut_off_from_the_database(cluster: Config, postgresql: PostgreSQL) -> None:
    """For longer than a lease: others take over what they had, and none of it is in doubt once they are back."""
    cut_off(cluster, postgresql)


def test_workers_that_are_cut_off_from_the_database(store: Config, request: pytest.FixtureRequest) -> None:
    if not store.database_url:
        pytest.skip("there is no network before SQLite")
    cut_off(store, request.getfixturevalue("postgresql"))


def cut_off(config: Config, server: PostgreSQL) -> None:
    with Rig(config, replace(SMALL, people=3000, workers=3, cuts=2), server=server) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert verdict.cut == 2
        assert verdict.most_in_doubt  # others did take it over
        assert verdict.in_doubt == 0


def test_the_cluster_outlives_restarts_of_postgresql(cluster: Config, postgresql: PostgreSQL) -> None:
    with Rig(cluster, replace(SMALL, people=3000, kills=1, restarts=2), server=postgresql) as rig:
        rig.open()
        rig.run()
        assert kept(rig.judge()).restarted == 2


def test_what_a_lost_host_had_in_hand_is_settled_when_it_is_back(cluster: Config) -> None:
    if why := hosts_missing():
        pytest.skip(why)
    with Rig(cluster, replace(SMALL, people=3000, hosts=2, workers=1)) as rig:
        rig.open()
        without = kept(rig.run_and_lose_a_host())
        assert without.in_doubt > rig.bound()  # nobody else can read its recorders
        verdict = kept(rig.judge())
        assert verdict.in_doubt <= rig.bound()
        assert verdict.tally["accepted"] >= 3000 - rig.bound()


def test_the_judge_sees_what_is_wrong_over_two_ways_out_and_in_the_queue(cluster: Config) -> None:
    with Rig(cluster, Plan(people=50, workers=1, through="failover")) as rig:
        rig.open()
        rig.start_workers()
        rig.finish()
        kept(rig.judge())
        first, second = (sink.log for sink in rig.sinks)
        line = first.read_text("utf-8").splitlines(keepends=True)[0]
        second.write_text(line, "utf-8")
        assert any("doubled: 1" in each for each in rig.judge().faults)
        second.unlink()
        with psycopg.connect(cluster.database_url) as server:
            server.execute("INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('x', 'x', 'failed')")
        assert any("jobs of the queue are left" in each for each in rig.judge().faults)
