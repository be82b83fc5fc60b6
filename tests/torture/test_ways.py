"""The torture over every way out (the full size: make torture)."""

from __future__ import annotations

from dataclasses import replace

from newsletter.config import Config
from torture.rig import Rig
from torture.small import REQUESTS, SMALL, kept


def test_requests_of_many_recipients_lose_nobody_and_double_nobody(store: Config) -> None:
    with Rig(store, replace(REQUESTS, kills=3, stops=1, outages=1)) as rig:
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
