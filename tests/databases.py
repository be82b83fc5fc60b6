"""A real PostgreSQL server for the tests, started once a run, with a new database for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def postgresql_programs() -> Path | None:
    """The folder with initdb and postgres: on the PATH, or where Debian keeps them."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgreSQL:
    """A server of our own on a Unix socket, in a new folder. As root it runs as `postgres`: it refuses to be root's."""

    def __init__(self, *, durable: bool = False) -> None:
        programs = postgresql_programs()
        if programs is None:
            message = "no PostgreSQL server; on Debian and Ubuntu: sudo apt install postgresql"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="newsletter-pg-"))
        if self._user:
            shutil.chown(self.folder, self._user)
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._run("initdb", "--pgdata", self._data, "--username=test", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self._options = [
            *(
                "-c",
                "listen_addresses=",
                "-k",
                self.folder,
                "-c",
                "max_connections=120",
                "-c",
                "authentication_timeout=10",
            ),
            *(() if durable else ("-c", "fsync=off", "-c", "full_page_writes=off")),
        ]
        self._databases = 0
        self.start()

    def start(self) -> None:
        self._server = subprocess.Popen(
            [str(word) for word in (self._programs / "postgres", "-D", self._data, *self._options)],
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while self._run("pg_isready", "-h", self.folder, "-q", check=False) != 0:
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def stop(self, *, fast: bool = True) -> None:
        """`fast` ends every session (SIGINT); not fast is immediate, as after a crash (SIGQUIT)."""
        self._server.send_signal(2 if fast else 3)
        self._server.wait(30)

    def close(self) -> None:
        self.stop(fast=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str) -> str:
        return f"postgresql://test@/{name}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        self._run("psql", "-X", "-q", "-h", self.folder, "-U", "test", "-d", database, "-c", statement)

    def new_database(self, template: str = "template0") -> str:
        """The URL of a new database, a copy of `template`."""
        self._databases += 1
        name = f"test{self._databases}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def _run(self, program: str, *arguments: object, check: bool = True) -> int:
        done = subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            user=self._user,
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.returncode
