"""What the small tests of the torture share: plans of a few seconds, and the judge's word as an assertion."""

from __future__ import annotations

from dataclasses import replace

from torture.rig import Plan, Verdict
from torture.sink import Trouble

SLOW = Trouble(delay=0.004)  # so that there is time to strike
SMALL = Plan(people=1000, lease=2.0, patience=60, trouble=SLOW)
REQUESTS = replace(SMALL, people=3000, through="sendgrid", trouble=Trouble(delay=0.1))  # of each request


def kept(verdict: Verdict) -> Verdict:
    """Every promise, or the faults."""
    assert not verdict.faults, "\n".join(verdict.faults)
    assert verdict.snapshots
    return verdict
