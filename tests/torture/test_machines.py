"""The torture over every way out, over the cluster engine, and on several hosts (the full size: make torture)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from databases import PostgreSQL
from newsletter.config import Config
from torture.rig import Plan, Rig, hosts_missing, use_sample
from torture.sink import Trouble
from torture.test_torture import SMALL, kept

REQUESTS = Trouble(delay=0.1)  # of each request
API = replace(SMALL, people=3000, through="sendgrid", trouble=REQUESTS)


def test_requests_of_many_recipients_lose_nobody_and_double_nobody(store: Config) -> None:
    with Rig(store, replace(API, kills=3, stops=1, outages=1)) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert (verdict.crashed, verdict.stopped, verdict.outages) == (3, 1, 1)
        assert verdict.doubts_that_arrived  # the server takes a request before it answers


def test_nobody_gets_it_twice_over_two_ways_out_that_fail_in_turn(store: Config) -> None:
    with Rig(store, replace(SMALL, people=4000, through="failover", kills=2, outages=4)) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert verdict.outages == 4
        first, second = (sink.lines() for sink in rig.sinks)
        assert second, "the fallback was never taken"
        assert max(line.at for line in first) > min(line.at for line in second), "the first was never taken again"


def test_the_cluster_loses_and_doubles_nobody(cluster: Config) -> None:
    """Its workers die while they write the recipients down, while they send, and are stopped."""
    with Rig(cluster, Plan(people=3000, kills=4, kills_opening=2, stops=1, lease=2.0, trouble=SMALL.trouble)) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert verdict.left_doing  # dead workers let go of jobs, and others did them


def test_what_newsletter_send_opened_leaves_in_requests_by_the_cluster(cluster: Config) -> None:
    with Rig(use_sample(cluster), replace(API, kills=4, kills_opening=1, outages=1)) as rig:
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
    with Rig(config, replace(SMALL, people=3000, cuts=2), server=server) as rig:
        rig.open()
        rig.run()
        verdict = kept(rig.judge())
        assert verdict.cut == 2
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
