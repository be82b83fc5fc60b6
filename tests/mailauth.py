"""The verdict of mailauth, an independent program for Node, on messages: DKIM, SPF and DMARC.

    verdicts([(message, "b@bounce.example.org")], {"s1._domainkey.example.org": "v=DKIM1; …"})

MAILAUTH names a folder in which `npm install mailauth` was run. Else it is installed once into .cache/mailauth of the
repository. A test that needs it is skipped where neither Node nor the npm registry is to be had.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "7.1.0"
IP = "192.0.2.25"  # from which the messages come
_CACHE = Path(__file__).parents[1] / ".cache" / "mailauth"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    dkim: list[tuple[str, str, str]]  # selector, result, comment
    signed: list[str]  # the headers that the first signature covers, in lower case
    spf: str
    dmarc: str


def verdicts(messages: Sequence[tuple[bytes, str]], records: Mapping[str, str]) -> list[Verdict]:
    """One for each message and its return path; `records` are TXT records by their names. Node starts once."""
    node = shutil.which("node")
    if not node:
        pytest.skip("there is no node, on which mailauth runs")
    request = {
        "mailauth": str(_folder()),
        "dns": {name: {"TXT": [[text]]} for name, text in records.items()},
        "messages": [
            {"message": b64encode(message).decode(), "ip": IP, "sender": sender} for message, sender in messages
        ],
    }
    script = Path(__file__).with_name("mailauth.cjs")
    command = [node, str(script)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [
        Verdict(
            dkim=[(selector, result, comment) for selector, result, comment, _ in each["dkim"]],
            signed=[name.strip().lower() for name in each["dkim"][0][3].split(":")] if each["dkim"] else [],
            spf=each["spf"],
            dmarc=each["dmarc"],
        )
        for each in json.loads(done.stdout)
    ]


def _folder() -> Path:
    """Where mailauth is installed, in node_modules."""
    if given := os.environ.get("MAILAUTH"):
        assert (Path(given) / "node_modules" / "mailauth").is_dir(), "MAILAUTH holds no node_modules/mailauth"
        return Path(given).absolute()
    folder = _CACHE / VERSION
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("there is no npm to install mailauth with; MAILAUTH may name a folder that has it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # A package.json, or npm would look for one above; undici 6, since the one that mailauth asks for wants Node 22.
    (folder / "package.json").write_text('{"private": true, "overrides": {"undici": "^6.21"}}')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000"]
    command = [npm, "install", *options, "--prefix", str(folder), f"mailauth@{VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer, so mailauth cannot be installed")
    if done.returncode:
        pytest.skip(f"mailauth cannot be installed: {done.stderr.strip().splitlines()[:1]}")
    (folder / "complete").touch()
