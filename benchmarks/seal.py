"""What one seal costs, and that sealing holds no memory.

    PYTHONPATH=. python benchmarks/seal.py [SEALS]        1,000,000 by default

Prints the size of the message, µs of CPU per seal, and the peak of resident memory after the first thousand seals and
after the last: the two must be alike. The message has 60 KB of HTML and text together, four slots in each part, and a
new recipient for every seal; making the recipient and its links is measured on its own.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import process_time

from newsletter.envelope import Envelope, Recipient
from newsletter.links import SAMPLE, urls
from newsletter.rendering.edition import Edition, Mailbox

NOON = datetime(2017, 11, 19, 12, tzinfo=UTC)
STORY = (
    '<tr><td style="padding:0 24px"><p>El Congreso debatió ayer la moción; más en la edición de hoy.</p></td></tr>\n'
)
FOOTER = (
    '<p>Hola @@NAME@@ <a href="@@VIEW_URL@@">ver</a> <a href="@@PREFERENCES_URL@@">cambiar</a> '
    '<a href="@@UNSUBSCRIBE_URL@@">salir</a></p>\n'
)
TEXT = "Hola @@NAME@@\n\n@@VIEW_URL@@\n@@PREFERENCES_URL@@\n@@UNSUBSCRIBE_URL@@\n"


def sample_edition() -> Edition:
    html, text = FOOTER, TEXT
    while len(html.encode()) < 50_000:
        html = STORY + html
    while len(text.encode()) < 10_000:
        text = "El Congreso debatió ayer la moción; más en la edición de hoy.\n" + text
    return Edition(
        key="2017-11-19",
        language="es",
        direction="ltr",
        kind="bulk",
        subject="Perú esta semana: el Congreso, la moción y lo que viene",
        sender=Mailbox(name="Peru Weekly", address="news@news.example.org"),
        list_id=("Peru Weekly", "weekly.news.example.org"),
        feedback_id="2017-11-19:weekly:news:example",
        unsubscribe_mailbox="leave@news.example.org",
        html=html,
        text=text,
    )


def recipient(number: int) -> Recipient:
    links = urls("https://news.example.org", SAMPLE, delivery=number, language="es", issue="2017-11-19")
    name = f"Reader {number}"
    return Recipient(key=f"d{number}", address=f"reader{number}@example.org", name=name, slots={"NAME": name, **links})


def cost(count: int, work: Callable[[int], object]) -> float:
    """µs of CPU per call, the loop's own cost included."""
    start = process_time()
    for number in range(count):
        work(number)
    return (process_time() - start) / count * 1e6


def peak() -> float:
    """MiB of resident memory at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(seals: int) -> None:
    envelope = Envelope(sample_edition())
    message = envelope.seal(recipient(0), date=NOON)
    crowd = [recipient(number) for number in range(1000)]
    dates = [NOON + timedelta(milliseconds=number) for number in range(1000)]

    def seal(number: int) -> None:
        envelope.seal(crowd[number % 1000], date=dates[number % 1000])

    cost(1000, seal)
    before = peak()
    print(f"message      {len(message):,} bytes")
    print(f"links        {cost(min(seals, 100_000), recipient):.1f} µs per recipient, with its two tokens")
    print(f"seal         {cost(seals, seal):.1f} µs per message, {seals:,} seals")
    print(f"peak memory  {before:.1f} MiB after 1,000 seals, {peak():.1f} MiB after all")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
