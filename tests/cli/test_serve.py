"""`newsletter serve`: real processes, real requests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from newsletter.cli import run
from newsletter.config import Config
from web_server import PATIENCE, ROOT, Served, served

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def raw(server: Served, request: bytes, *, half: bool = False) -> bytes:
    """Everything that comes back; with `half` the request ends here, whatever it promised."""
    with connected(server) as connection:
        connection.sendall(request)
        if half:
            connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def connected(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def everything(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionResetError:  # it was closed with something of ours unread
        pass
    return answer


def processes(config: Config) -> dict[int, str]:
    """Every process whose command line names this workspace: "parent", "server" or "worker", by its number."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if str(config.root).encode() in line and state != "Z":
            found[int(folder.name)] = int(parent), "worker" if line[-2] == b"worker" else "server"
    return {pid: kind if parent in found else "parent" for pid, (parent, kind) in found.items()}


def by_kind(config: Config) -> dict[str, list[int]]:
    kinds: dict[str, list[int]] = {"parent": [], "server": [], "worker": []}
    for pid, kind in processes(config).items():
        kinds[kind].append(pid)
    return kinds


def until(true: Callable[[], object]) -> None:
    """Waits for what must come."""
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.02)


on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # what is the same on both databases


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_serves_until_a_signal_and_leaves_no_process(store: Config, number: int) -> None:
    with served(store, processes=2, stopped=True) as server:
        assert get(f"{server.url}/health") == (200, "ok\n")
        assert "Ctrl-C ends it" in server.said()
        assert server.stop(number) == 0
        assert processes(store) == {}
        assert "Traceback" not in server.said()


@on_sqlite
def test_ctrl_c_of_a_terminal_reaches_the_whole_group_and_is_no_error(store: Config) -> None:
    with ExitStack() as stack:
        output = stack.enter_context(Path("said.txt").open("w+b"))
        line = [sys.executable, "-m", "newsletter", "-w", str(store.root), "serve", "--port", "0"]
        process = subprocess.Popen(
            line, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output, process_group=0
        )
        stack.callback(process.kill)
        until(lambda: re.search(r" worker on ", Path("said.txt").read_text()))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in Path("said.txt").read_text()
    assert processes(store) == {}


def test_a_worker_runs_beside_it_on_sqlite_and_where_one_is_asked_for(store: Config) -> None:
    with served(store) as server:
        if store.database_url:
            assert by_kind(store)["worker"] == []
        else:
            until(lambda: " worker on " in server.said())
            assert len(by_kind(store)["worker"]) == 1
    with served(store, worker=not store.database_url) as server:
        assert len(by_kind(store)["worker"]) == (1 if not store.database_url else 0)


def test_the_worker_can_be_asked_for_and_declined(store: Config) -> None:
    with served(store, worker=False):
        assert by_kind(store)["worker"] == []
    with served(store, worker=True):
        until(lambda: by_kind(store)["worker"])


@on_sqlite
def test_when_it_is_killed_its_processes_end_too(store: Config) -> None:
    with served(store, processes=2, stopped=True) as server:
        until(lambda: len(processes(store)) == 4)
        until(lambda: " worker on " in server.said())
        server.process.kill()
        server.process.wait()
        until(lambda: not processes(store))
        assert "Traceback" not in server.said()


@on_sqlite
def test_a_process_that_died_is_replaced_and_nobody_is_turned_away(store: Config) -> None:
    with served(store, processes=1) as server:
        for times in range(1, 3):  # the second time with a pause, since it did not live long
            (died,) = by_kind(store)["server"]
            os.kill(died, signal.SIGKILL)
            until(lambda times=times: server.said().count("a server process has died") == times)  # type: ignore[misc]
            assert get(f"{server.url}/health") == (200, "ok\n")
            assert died not in processes(store)


@on_sqlite
def test_a_worker_that_died_is_replaced(store: Config) -> None:
    with served(store) as server:
        until(lambda: " worker on " in server.said())
        (died,) = by_kind(store)["worker"]
        os.kill(died, signal.SIGKILL)
        until(lambda: server.said().count(" worker on ") == 2)
        assert "the worker ended (exit code -9); starting it again in 1 s" in server.said()


@on_sqlite
@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3, 0.4, None, 0.5, 0.7])
def test_a_signal_in_the_middle_of_its_start_ends_it_whole(store: Config, moment: float | None) -> None:
    line = [sys.executable, "-m", "newsletter", "-w", str(store.root), "serve", "--port", "0", "--processes", "3"]
    process = subprocess.Popen(
        line, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    with process.stdout:
        if moment is None:
            process.stdout.readline()  # the socket is open, the processes are about to start
        else:
            time.sleep(moment)
        process.terminate()
        said = process.stdout.read().decode()
        code = process.wait(PATIENCE)
    assert code in (0, -signal.SIGTERM)  # the latter before Python has come to our code
    assert code == 0 or not said
    assert "Traceback" not in said
    assert processes(store) == {}


@on_sqlite
def test_a_taken_port_is_said(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    with served(store, worker=False) as server:
        port = server.url.rpartition(":")[2]
        assert run(["serve", "--port", port]) == 1
    assert f"port {port} at 127.0.0.1 is taken by another program" in capsys.readouterr().err


@on_sqlite
@pytest.mark.parametrize("host", ["news.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_said(store: Config, capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert run(["serve", "--host", host, "--port", "0"]) == 1
    assert f"--host {host}: no such address on this machine" in capsys.readouterr().err


@on_sqlite
def test_the_inbox_is_for_this_machine_only(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--inbox", "--host", "0.0.0.0"]) == 2
    assert "--inbox shows mail to whoever asks" in capsys.readouterr().err


@on_sqlite
def test_what_is_wrong_with_the_workspace_is_said_before_anything_starts(
    store: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.root / "subscribers" / "lists.yaml").write_text("lists: [{id: weekly, nmae: Weekly}]\n", "utf-8")
    assert run(["serve", "--port", "0"]) == 1
    said = capsys.readouterr()
    assert "lists.yaml:1" in said.err
    assert "http://" not in said.out


def test_wrong_keys_are_refused(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from newsletter.store import keys

    keys.check_keys(store)
    path = store.root / ".env"
    path.write_text(path.read_text("utf-8").replace("p" * 40, "q" * 40), "utf-8")
    assert run(["serve", "--port", "0"]) == 1
    said = capsys.readouterr()
    assert "NEWSLETTER_PEPPER" in said.err
    assert "http://" not in said.out


def test_a_database_that_is_down_is_exit_code_3(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.root / ".env"
    path.write_text(path.read_text("utf-8") + "DATABASE_URL=postgresql://nobody@127.0.0.1:9/nothing\n", "utf-8")
    assert run(["serve", "--port", "0"]) == 3


@on_sqlite
def test_it_answers_below_the_path_of_base_url(store: Config) -> None:
    path = store.root / "newsletter.yaml"
    path.write_text(path.read_text("utf-8").replace("news.example.org", "example.org/news"), "utf-8")
    with served(store, worker=False) as server:
        assert f"{server.url}/news/ (" in server.said()
        assert get(f"{server.url}/news/health") == (200, "ok\n")
        assert get(f"{server.url}/health")[0] == 404


# --- clients that are slow, large or wrong ----------------------------------------------------------------------------

HEADS = {
    "nothing": b"",
    "a head without an end": b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "a form without an end": b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nemail=",
    "a form in chunks": b"POST /signup/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nemail=",
}


@on_sqlite
def test_slow_clients_keep_nobody_waiting_and_are_sent_away(store: Config) -> None:
    with served(store, worker=False, arguments=("--threads", "2")) as server, ExitStack() as stack:
        slow = {name: [stack.enter_context(connected(server)) for _ in range(50)] for name in HEADS}
        for name, connections in slow.items():
            for each in connections:
                each.sendall(HEADS[name])
        for _ in range(20):
            assert get(f"{server.url}/health") == (200, "ok\n")
            assert raw(server, b"POST /health HTTP/1.0\r\nContent-Length: 1\r\n\r\na").startswith(b"HTTP/1.0 405")
            for connections in slow.values():
                connections[0].sendall(b"a")
        for name, connections in slow.items():
            answers = {everything(each).partition(b"\r\n")[0] for each in connections[1:]}
            assert answers == ({b"HTTP/1.1 408 Request Timeout"} if "form" in name else {b""}), name


@on_sqlite
def test_a_request_that_is_cut_off_is_not_taken_for_a_whole_one(store: Config) -> None:
    cut = b"POST /signup/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nemail=somebody"
    with served(store, worker=False) as server:
        assert raw(server, cut, half=True).partition(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"")
        assert get(f"{server.url}/health") == (200, "ok\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /%FF%00%2e%2e/ HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"413"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 300 + b"\r\n", b"431"),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\na", b"413"),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\na", b"4"),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\na", b"400"),
        (
            b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 40,
            b"413",
        ),
        (b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"\0\xff\xfe\r\n\r\n", b"400"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if len(value) > 4 else None,
)
def test_large_and_wrong_requests_are_refused(running: Served, request_: bytes, status: bytes) -> None:
    answer = raw(running, request_.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1))
    assert answer.partition(b" ")[2].startswith(status)
    assert get(f"{running.url}/health") == (200, "ok\n")
    assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, empty_sqlite: Path) -> Iterator[Served]:
    """One server for tests that change nothing."""
    from conftest import LISTS_YAML, NEWSLETTER_YAML, SECRETS

    root = tmp_path_factory.mktemp("running")
    (root / "issues").mkdir()
    (root / "subscribers").mkdir()
    (root / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    (root / "subscribers" / "lists.yaml").write_text(LISTS_YAML, "utf-8")
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()), "utf-8")
    shutil.copyfile(empty_sqlite, root / "subscribers" / "newsletter.sqlite3")
    with served(root, worker=False) as server:
        yield server


# --- what is said of failures -----------------------------------------------------------------------------------------


@on_sqlite
def test_a_database_that_goes_away_is_said_without_the_token_of_the_request(store: Config) -> None:
    from newsletter.store.keys import keyring

    token = keyring(store).token("unsubscribe", 7)
    with served(store, worker=False, processes=1) as server:
        shutil.move(store.root / "subscribers", store.root / "away")
        assert get(f"{server.url}/health?token={token}")[0] == 503
        get(f"{server.url}/u/{token}")
        said = server.said()
        assert "GET /health" in said
        assert token not in said
        assert "127.0.0.1 -" not in said


def test_a_failure_is_told_by_its_places_without_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import logging; from newsletter.web import logs; logs.to_stderr()\n"
        "def inner(): raise ValueError('reader@example.org')\n"
        "try: inner()\n"
        "except ValueError as error: logging.getLogger('newsletter.web').error('GET /u/… failed', exc_info=error)\n"
        "logging.getLogger('django.request').error('/u/token')\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    said = capfd.readouterr().err
    assert re.search(r"ERROR GET /u/… failed\n  ValueError at <string>:2 inner < <string>:3 <module>\n$", said)
    assert "reader@" not in said
    assert "token" not in said
