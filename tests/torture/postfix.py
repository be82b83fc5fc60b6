"""A real Postfix in a folder of its own: takes mail on a port, refuses some recipients, hands the rest to a sink."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path


def missing() -> str:
    """Why there can be no Postfix here, or ""."""
    if os.geteuid() != 0:
        return "Postfix changes its user, which only root may do"
    if not _program("postconf"):
        return "no Postfix; on Debian and Ubuntu: apt install --no-install-recommends postfix"
    return ""


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


class Postfix:
    """Runs until `close`. `port` takes mail; what is not for one of `refused` goes on to `relay_port`."""

    def __init__(self, *, refused: Iterable[str], relay_port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._folder = Path(tempfile.mkdtemp(prefix="newsletter-postfix-"))
        self._folder.chmod(0o755)
        etc, queue, state = (self._folder / name for name in ("etc", "queue", "state"))
        for folder in (etc, queue, state):
            folder.mkdir(mode=0o755)
        (etc / "refused").write_text("".join(f"{each} 550 5.1.1 no such mailbox\n" for each in refused), "utf-8")
        daemons = _setting("daemon_directory")
        (etc / "main.cf").write_text(
            _MAIN.format(
                queue=queue,
                state=state,
                etc=etc,
                relay=relay_port,
                daemons=daemons,
                commands=_setting("command_directory"),
                log=self._folder / "log",
            ),
            "utf-8",
        )
        (etc / "master.cf").write_text(_MASTER.format(port=self.port), "utf-8")
        self._own(queue, state)
        self._master = subprocess.Popen(
            [f"{daemons}/master", "-d", "-c", str(etc)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait()

    def _own(self, queue: Path, state: Path) -> None:
        owner, drop = pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postdrop").gr_gid
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private"):
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner, -1)
        for name in ("saved", "trace"):
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner, -1)
        for name, mode in (("maildrop", 0o730), ("public", 0o710)):
            (queue / name).mkdir()
            os.chown(queue / name, owner, drop)
            (queue / name).chmod(mode)
        (queue / "pid").mkdir()
        os.chown(state, owner, -1)

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._master.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as greeting:
                    if greeting.recv(3) == b"220":
                        return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"Postfix did not start: {self.log()[-2000:]}")

    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def close(self) -> None:
        self._master.terminate()
        self._master.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)


def _setting(name: str) -> str:
    done = subprocess.run([_program("postconf"), "-dh", name], capture_output=True, text=True, check=True)
    return done.stdout.strip()


_MAIN = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {state}
daemon_directory = {daemons}
command_directory = {commands}
maillog_file = {log}
maillog_file_prefixes = {log}
myhostname = mail.example.net
mydestination =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{relay}
smtp_host_lookup = native
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_peername_lookup = no
smtpd_recipient_restrictions = check_recipient_access texthash:{etc}/refused, permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 10000
smtpd_hard_error_limit = 20000
default_database_type = texthash
alias_maps =
alias_database =
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""
