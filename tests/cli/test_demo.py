"""`newsletter demo`: the whole way, in a workspace of its own, and nothing of it outside."""

from __future__ import annotations

import csv
import mailbox
import os
import pty
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.header import decode_header, make_header
from pathlib import Path

import pytest
import yaml

from newsletter.cli import run
from newsletter.config import ENVIRONMENT, load_config
from newsletter.rendering.edition import SLOT

ROOT = Path(__file__).parents[2]
OUTBOX = Path("build/demo/workspace/build/outbox")


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err


Run = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable.name, raising=False)

    def run_one(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = run([str(each) for each in arguments])
        return Said(code, *capsys.readouterr())

    return run_one


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Run) -> Path:
    """A workspace as `init` makes it, and the current folder."""
    monkeypatch.chdir(tmp_path)
    assert say("init", "desk").code == 0
    monkeypatch.chdir(tmp_path / "desk")
    return Path()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A workspace in which the demo has run, and what it said: for tests that look at it and change nothing."""
    root = tmp_path_factory.mktemp("once")
    names = {variable.name for variable in ENVIRONMENT}
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"PYTHONPATH": str(ROOT)}

    def command(folder: Path, *arguments: str) -> Said:
        line = [sys.executable, "-m", "newsletter", *arguments]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    assert command(root, "init", "desk").code == 0
    return root / "desk", command(root / "desk", "demo")


@pytest.fixture
def shown(once: tuple[Path, Said], monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the demo said, in the folder in which it ran."""
    monkeypatch.chdir(once[0])
    return once[1]


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def read_header(value: str) -> str:
    return str(make_header(decode_header(value)))


def messages() -> dict[str, list[mailbox.MaildirMessage]]:
    """What the demo sent, by the issue."""
    found: dict[str, list[mailbox.MaildirMessage]] = {}
    for key, message in mailbox.Maildir(str(OUTBOX)).items():
        found.setdefault(key.partition(".")[0], []).append(message)
    return found


def counted() -> dict[str, int]:
    """How many messages there are of each issue."""
    return {issue: len(sent) for issue, sent in messages().items() if issue.startswith("2017")}


def test_the_demo_goes_the_whole_way_and_accounts_for_everybody(shown: Said) -> None:
    assert shown.code == 0
    assert "8 people on the list weekly, 0 rows rejected" in shown.out
    tallies = re.findall(r"accepted +(\d)\n +refused +(\d)\n +in doubt +(\d)\n +skipped +(\d)", shown.out)
    assert tallies[:2] == [("8", "0", "0", "0"), ("7", "0", "0", "1")]
    assert re.search(r"skipped +1 +unsubscribed\n", shown.out)
    assert "0 people to send to: 7 who have it already, 1 unsubscribed; nobody gets it twice" in shown.out
    (address,) = re.findall(r"Did (\S+) get it\?", shown.out)
    assert f"Did {address} get it?\n  2017-11-19: accepted\n  2017-11-26: skipped: unsubscribed\n" in shown.out
    assert counted() == {"2017-11-19": 8, "2017-11-26": 7, "2017-12-03": 8, "2017-12-10": 7}


def test_somebody_signs_up_gets_an_issue_leaves_and_gets_nothing_more(shown: Said) -> None:
    assert shown.code == 0
    assert "nothing of it for newcomer@example.org, who has left" in shown.out
    theirs = {
        issue: sum("newcomer@example.org" in read_header(message["To"]) for message in sent)
        for issue, sent in messages().items()
    }
    assert {issue: count for issue, count in theirs.items() if issue.startswith("2017")} == {
        "2017-11-19": 0,
        "2017-11-26": 0,
        "2017-12-03": 1,
        "2017-12-10": 0,
    }
    assert sum(theirs.values()) >= 2  # and the mail to confirm by


def test_on_a_terminal_the_pages_are_served_until_ctrl_c(desk: Path) -> None:
    command = [sys.executable, "-m", "newsletter", "demo"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"})
    said = b""
    try:
        while b"(Ctrl-C ends it)" not in said or b"past issues" not in said.rpartition(b"(Ctrl-C ends it)")[2]:
            said += os.read(terminal, 65536)
        url = re.findall(r"(http://\S+)/inbox/ ", said.decode())[-1]
        with urllib.request.urlopen(f"{url}/inbox/", timeout=60) as answer:
            assert answer.status == 200
        os.write(terminal, b"\x03")
        with suppress(OSError):  # EIO: the terminal has been let go
            while chunk := os.read(terminal, 65536):
                said += chunk
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{url}/inbox/", timeout=60)
    finally:
        os.close(terminal)
    assert b"Traceback" not in said


def test_its_workspace_can_reach_nobody(say: Run, desk: Path) -> None:
    spoil(
        desk / "newsletter.yaml",
        "provider: outbox",
        "provider: smtp\nsmtp: {host: 127.0.0.1, port: 9}\nproviders: {relay: {smtp: {host: 127.0.0.1, port: 9}}}\n"
        "fallback: [relay]",
    )
    assert say("demo", "--no-serve").code == 0
    config = load_config(Path("build/demo/workspace"), {})
    assert [way.name for way in (*config.ways, *config.spare)] == ["outbox"]
    assert config.outbox.is_relative_to(Path("build/demo/workspace"))


def test_a_private_list_has_no_sign_up_and_the_demo_says_so(say: Run, desk: Path) -> None:
    spoil(desk / "subscribers" / "lists.yaml", "  - id: weekly\n", "  - id: weekly\n    private: true\n")
    said = say("demo")
    assert said.code == 0
    assert "The list weekly is private" in said.out


def test_each_gets_a_finished_message_in_their_language(shown: Said) -> None:
    with (Path() / "subscribers" / "sample.csv").open(encoding="utf-8") as file:
        rows = {row["email"]: row for row in csv.DictReader(file)}
    subjects = yaml.safe_load((Path() / "issues" / "2017-11-19.yaml").read_text("utf-8"))["subject"]
    found = messages()["2017-11-19"]
    assert len(found) == len(rows)
    for message in found:
        to = read_header(message["To"]).replace("\\", "")
        (row,) = [row for address, row in rows.items() if address.partition("@")[0] + "@" in to]
        assert row["name"] in to
        assert read_header(message["Subject"]) == subjects[row["language"]]
        parts = [part for part in message.walk() if not part.is_multipart()]
        assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
        assert not any(SLOT.search(part.get_payload(decode=True).decode()) for part in parts)  # type: ignore[union-attr]
    for page in ("build/demo/en.html", "build/demo/es.html"):
        assert page in shown.out
        html = (Path() / page).read_text("utf-8")
        assert not SLOT.search(html)
        assert all((Path() / "build" / "demo" / name).is_file() for name in re.findall(r'src="(images/[^"]+)"', html))


def test_a_second_demo_begins_anew(say: Run, desk: Path) -> None:
    assert say("demo").code == 0
    said = say("demo")
    assert (said.code, "8 people on the list weekly" in said.out) == (0, True)
    assert counted() == {"2017-11-19": 8, "2017-11-26": 7, "2017-12-03": 8, "2017-12-10": 7}


def test_what_it_made_can_be_looked_into(shown: Said, say: Run) -> None:
    assert "-w build/demo/workspace mailings" in shown.out
    listed = say("-w", "build/demo/workspace", "mailings").out
    assert re.search(r"1 .* finished +2017-11-19 to weekly +8 people: 8 accepted\n", listed)
    assert re.search(r"2 .* finished +2017-11-26 to weekly +8 people: 7 accepted, 1 skipped\n", listed)


def test_neither_the_database_nor_the_way_out_of_the_newsletter_is_touched(
    say: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    monkeypatch.setenv("NEWSLETTER_PEPPER", "x" * 40)
    spoil(desk / "newsletter.yaml", "provider: outbox", "provider: smtp\nsmtp: {host: 127.0.0.1, port: 9}")
    assert say("demo").code == 0
    assert not (desk / "subscribers" / "newsletter.sqlite3").exists()
    assert not (desk / "subscribers" / "recorders").exists()
    assert len(messages()["2017-11-19"]) == 8


def test_a_wrong_row_of_the_sample_is_told_with_its_line_and_the_others_get_their_mail(say: Run, desk: Path) -> None:
    spoil(desk / "subscribers" / "sample.csv", "lectora@example.net,,es", "lectora,,es")
    said = say("demo")
    assert said.code == 0
    assert "7 people on the list weekly, 1 row rejected" in said.out
    assert re.search(r"sample\.csv:4: ", said.out)
    assert len(messages()["2017-11-19"]) == 7


@pytest.mark.parametrize("text", ["", "email,name,language\n"])
def test_a_sample_without_people_is_answered_in_words(say: Run, desk: Path, text: str) -> None:
    (desk / "subscribers" / "sample.csv").write_text(text, "utf-8")
    said = say("demo")
    assert "Traceback" not in said.err + said.out


def test_it_runs_where_there_is_no_psycopg(say: Run, desk: Path) -> None:
    """In a process of its own, that has no PostgreSQL driver and finds no browser."""
    script = (
        "import sys; sys.modules['psycopg'] = None; sys.modules['psycopg2'] = None; "
        "from newsletter.cli import run; sys.exit(run(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=desk.resolve(),
        env={"PYTHONPATH": str(ROOT), "PATH": "/nowhere", "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody gets it twice" in done.stdout
