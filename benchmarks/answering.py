"""How many wishes of the pages a worker answers in a second: who asked is found out, limits are kept, mail is posted.

    python benchmarks/answering.py [--wishes 2000] [--url postgresql://…]

Without a URL an SQLite file in a new folder. Half of those who sign up are known, with the same lists or others; each
has a mailbox of their own, so that all are mailed. Reported: wishes a second, what one costs
this process, and how long the transactions took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--wishes", type=int, default=2000)
    options.add_argument("--people", type=int, default=20_000)
    options.add_argument("--url", default="")
    given = options.parse_args()
    from audience import add_people, address
    from conftest import LISTS_YAML, NEWSLETTER_YAML, SECRETS
    from newsletter.config import load_config
    from newsletter.settings import configure

    root = Path(tempfile.mkdtemp(prefix="answering-"))
    (root / "subscribers").mkdir()
    (root / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    open_list = "  - {id: open, name: {en: Open, es: Abierta}, double_opt_in: false}\n"
    (root / "subscribers" / "lists.yaml").write_text(LISTS_YAML + open_list, "utf-8")
    config = load_config(root, {**SECRETS, **({"DATABASE_URL": given.url} if given.url else {})})
    configure(config)
    from newsletter.store import schema

    schema.migrate(config) if given.url else schema.prepare(config)
    from django.db import connection

    from newsletter.store import answering, models
    from newsletter.store.keys import key_maker

    key = key_maker(config.pepper.encode())
    add_people(config, range(1, given.people + 1))
    if given.url:
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('subscriber_id_seq', %s)", [given.people])

    def ask(who: Callable[[int], str], kind: str, lists: list[str]) -> None:
        now = time.time()
        models.Wish.objects.bulk_create(
            models.Wish(
                kind=kind,
                address=who(number),
                address_key=key(who(number)),
                language=("en", "es")[number % 2],
                lists=lists,
                text="Yes, send me this.",
                text_version="1",
                how="page",
                at=now,
                not_before=now,
            )
            for number in range(given.wishes)
        )

    def answered(what: str) -> None:
        for act in (answering.answer, answering.greet):
            act(config, size=1)  # templates are loaded, and the mail is rendered
        calls = []
        begun, cpu = time.perf_counter(), time.process_time()
        for act in (answering.answer, answering.greet):
            done = True
            while done:  # as duties.answer_wishes does it
                since = time.perf_counter()
                done = bool(act(config).wishes)
                calls.append(time.perf_counter() - since)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert not models.Wish.objects.filter(state="waiting").exists()
        calls.sort()
        print(
            f"{what:35} {(given.wishes - 1) / seconds:6,.0f} wishes/s, {cpu / given.wishes * 1e6:6,.0f} µs of CPU each;"
            f" transactions {calls[len(calls) // 2] * 1000:.0f} ms, the longest {calls[-1] * 1000:.0f} ms"
        )

    ask(lambda number: f"new{number}@example.net", "signup", ["weekly"])
    answered("sign-ups of strangers")
    ask(lambda number: address(number + 1), "signup", ["weekly"])
    answered("sign-ups of subscribers")
    ask(lambda number: address(number + given.wishes + 1), "signup", ["weekly", "alerts"])
    answered("sign-ups of subscribers, one more")
    ask(lambda number: address(number + 1), "link", [])
    answered("fresh links")
    ask(lambda number: f"once{number}@example.net", "signup", ["open"])
    answered("sign-ups at once, with welcomes")
    print(models.Delivery.objects.count(), "mails posted,", models.Batch.objects.count(), "batches")


if __name__ == "__main__":
    main()
