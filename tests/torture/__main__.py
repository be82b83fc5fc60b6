"""The torture test at full size: `make torture`. Prints a table; exit code 1 when a promise was broken.

python -m torture [--people N] [--kills N] [--workers N] [--seed N] [--only WORD]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from audience import address
from conftest import LISTS_YAML, NEWSLETTER_YAML, SECRETS
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.settings import configure
from torture.postfix import Postfix, missing
from torture.rig import Plan, Rig, Verdict, hosts_missing, table, use_sample
from torture.sink import Trouble, refuses


@contextmanager
def _workspace(server: PostgreSQL | None, engine: str) -> Iterator[Config]:
    """A workspace with an empty, migrated database: a file, or one of the server's."""
    root = Path(tempfile.mkdtemp(prefix="newsletter-torture-"))
    (root / "subscribers").mkdir()
    (root / "newsletter.yaml").write_text(f"{NEWSLETTER_YAML}engine: {engine}\n", "utf-8")
    (root / "subscribers" / "lists.yaml").write_text(LISTS_YAML, "utf-8")
    secrets = {**SECRETS, **({"DATABASE_URL": server.new_database()} if server else {})}
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()), "utf-8")
    config = load_config(root, {})
    configure(config)
    from django.db import connections

    from newsletter.store import schema

    schema.migrate(config)
    connections.close_all()
    yield config
    connections.close_all()
    shutil.rmtree(root)  # kept when something went wrong, to be looked at


Play = Callable[[Config, PostgreSQL | None], Verdict]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of the table, once on each of its databases."""

    name: str
    play: Play
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    engine: str = "local"
    missing: Callable[[], str] = lambda: ""  # why it cannot be run here, or ""


def _struck(plan: Plan) -> Play:
    def play(config: Config, server: PostgreSQL | None) -> Verdict:
        with Rig(config, plan, server=server) as rig:
            rig.open()
            rig.run()
            return rig.judge()

    return play


def _sent_by_command(plan: Plan) -> Play:
    def play(config: Config, server: PostgreSQL | None) -> Verdict:
        with Rig(use_sample(config), plan, server=server) as rig:
            rig.open_by_command()
            rig.run()
            return rig.judge()

    return play


def _host_lost(plan: Plan) -> Play:
    def play(config: Config, server: PostgreSQL | None) -> Verdict:
        with Rig(config, plan, server=server) as rig:
            rig.open()
            without = rig.run_and_lose_a_host()
            print(
                f"  while the host was away {without.in_doubt} were in doubt, {without.doubt_bound} at most", flush=True
            )
            verdict = rig.judge()
            return replace(verdict, faults=(*without.faults, *verdict.faults))

    return play


def _through_postfix(plan: Plan) -> Play:
    """Postfix refuses some recipients and hands the others to the sink, under the return paths that it was given."""

    def play(config: Config, server: PostgreSQL | None) -> Verdict:
        from torture.sink import Sink

        sink = Sink(log=config.root / "sink.log", trouble=plan.trouble)
        sink.start()
        refused = [address(n) for n in range(1, plan.people + 1) if refuses(plan.trouble, address(n))]
        postfix = Postfix(refused=refused, relay_port=sink.port)
        try:
            with Rig(config, plan, sink=sink, port=postfix.port) as rig:
                rig.open()
                rig.run()
                # What Postfix took from a worker that was killed before it heard so arrives as well.
                accepted = rig.database.tally(rig.mailing)[2]["accepted"]
                rig.wait_for_messages(accepted)
                return rig.judge()
        finally:
            postfix.close()
            sink.close()

    return play


def main() -> None:
    parser = argparse.ArgumentParser(prog="torture")
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--stops", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only the runs whose name has this in it")
    given = parser.parse_args()
    plan = Plan(
        people=given.people,
        workers=given.workers,
        kills=given.kills,
        stops=given.stops,
        seed=given.seed,
        batch=1000,
        patience=300,
        trouble=Trouble(seed=given.seed, delay=0.002),
    )
    # A worker without its recorder leaves all in doubt that it had in hand: more people, so that some are left.
    lossy = replace(plan, people=3 * given.people, lose_recorders=True)
    refusing = Plan(
        people=min(2000, given.people), workers=2, kills=4, seed=given.seed, trouble=Trouble(seed=1, refuse=0.05)
    )
    failing = replace(plan, kills=given.kills // 2, stops=0, through="failover", outages=9)
    # Many are on the way in one request: small ones, answered late, so that there is time for every kill.
    requests = replace(
        plan,
        people=given.people // 2,
        workers=3,
        kills=given.kills // 2,
        kills_opening=2,
        through="sendgrid",
        connections=2,
        batch=100,
        outages=3,
        trouble=Trouble(delay=0.5),
    )
    away = replace(plan, kills=given.kills // 4, stops=0, cuts=6, restarts=4)
    postgresql = ("postgresql",)
    runs = (
        Run(name="recorders kept", play=_struck(plan)),
        Run(name="recorders lost", play=_struck(lossy)),
        Run(name="postfix", play=_through_postfix(refusing), missing=missing),
        Run(name="failover", play=_struck(failing)),
        Run(name="cluster", play=_struck(replace(plan, kills_opening=3)), databases=postgresql, engine="cluster"),
        Run(name="cluster, sendgrid", play=_sent_by_command(requests), databases=postgresql, engine="cluster"),
        Run(name="cluster, cuts and restarts", play=_struck(away), databases=postgresql, engine="cluster"),
        Run(name="cluster, failover", play=_struck(failing), databases=postgresql, engine="cluster"),
        Run(
            name="cluster, a host lost",
            play=_host_lost(replace(plan, hosts=2, workers=2)),
            databases=postgresql,
            engine="cluster",
            missing=hosts_missing,
        ),
    )
    _run_all(runs, only=given.only)


def _run_all(runs: Sequence[Run], *, only: str) -> None:
    """Runs what has the word in its title; what is broken ends it, and its folder is kept."""
    verdicts: dict[str, Verdict] = {}
    server: PostgreSQL | None = None
    try:
        for database in ("sqlite", "postgresql"):
            for run in runs:
                title = f"{database}, {run.name}"
                if database not in run.databases or only not in title:
                    continue
                if why := run.missing():
                    print(f"{title}: not run: {why}", flush=True)
                    continue
                if database == "postgresql" and server is None:
                    server = PostgreSQL()
                with _workspace(server if database == "postgresql" else None, run.engine) as config:
                    verdict = verdicts[title] = run.play(config, server)
                    print(f"{title}: {'every promise kept' if not verdict.faults else 'BROKEN'}", flush=True)
                    for fault in verdict.faults:
                        print(f"  {fault}", flush=True)
                    if verdict.faults:
                        sys.exit(f"{table(verdicts)}\nlook into {config.root}")
    finally:
        if server:
            server.close()
    print(f"\n{table(verdicts)}")


if __name__ == "__main__":
    main()
