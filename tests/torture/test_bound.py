"""The bound of doubts to the letter: what a kill between two octets can leave open, one connection at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from audience import edition
from newsletter.config import Smtp
from newsletter.envelope import Recipient
from newsletter.providers.smtp import SmtpProvider
from newsletter.recorder import Lease, Outcome, Recorder
from torture.sink import Sink, Trouble

SLOTS = dict.fromkeys(("UNSUBSCRIBE_URL", "PREFERENCES_URL", "VIEW_URL"), "https://news.example.org/x") | {"NAME": "x"}


class Watched(Recorder):
    """Looks, before a message leaves, at what a kill at that moment would leave of the others' answers."""

    def __init__(self, folder: Path, number: int, others: list[Watched]) -> None:
        lease = Lease(batch=number, epoch=1, until=time.time() + 60)
        super().__init__(folder, lease, store="s", owner="o")
        self.told: list[str] = []
        self.unwritten: list[str] = []
        self._others = others
        others.append(self)

    def leaving(self, key: str, *, answered: Outcome | None = None) -> bool:
        for other in self._others:
            if other is not self:
                written = other.path.read_text("utf-8")
                self.unwritten += [each for each in other.told if f"<{each}\t" not in written]
        if answered:
            self.answered(answered)
        return super().leaving(key)

    def answered(self, outcome: Outcome) -> None:
        super().answered(outcome)
        self.told.append(outcome.key)


def test_an_answer_is_written_down_before_the_next_message_of_another_lane_leaves(tmp_path: Path) -> None:
    """Else a worker killed there leaves two doubts on one connection."""
    sink = Sink(log=tmp_path / "log", trouble=Trouble(delay=0.05))  # slow, so that all lanes are waiting
    sink.start()
    provider = SmtpProvider(
        Smtp(
            host="127.0.0.1",
            port=sink.port,
            security="none",
            username="",
            connections=1,
            timeout=10,
            bounces="",
        )
    )
    recorders: list[Watched] = []

    def lane(number: int) -> None:
        people = [
            Recipient(key=f"{number}x{n}", address=f"reader{n}@example.org", name="", slots=SLOTS) for n in range(2)
        ]
        provider.send(edition(), people, Watched(tmp_path, number, recorders))

    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(3)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    provider.close()
    sink.close()
    assert len(recorders) == 3
    assert [key for recorder in recorders for key in recorder.unwritten] == []
    for recorder in recorders:
        recorder.close()
