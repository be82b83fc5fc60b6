"""The examples of docs/deploy.md, held against the programs that read them, and the Dockerfile against the files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme
from click import Context

from newsletter.cli import group
from newsletter.cli.serve import serve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")


def examples(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        message = f"no {name} on this machine; tools/test-packages.sh installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


def test_nginx_takes_its_example(tmp_path: Path) -> None:
    nginx = tool("nginx")
    authority = trustme.CA()
    certificate = authority.issue_cert("news.example.org")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (example,) = examples("nginx")
    example = example.replace("/etc/letsencrypt/live/news.example.org/fullchain.pem", str(tmp_path / "cert.pem"))
    example = example.replace("/etc/letsencrypt/live/news.example.org/privkey.pem", str(tmp_path / "key.pem"))
    example = example.replace("/var/log/nginx/", f"{tmp_path}/")
    lines = [f"pid {tmp_path}/pid;", f"error_log {tmp_path}/error.log;", "events {}", "http {", example, "}"]
    (tmp_path / "nginx.conf").write_text("\n".join(lines), "utf-8")
    done = subprocess.run(
        [nginx, "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_caddy_takes_its_example(tmp_path: Path) -> None:
    caddy = tool("caddy")
    (example,) = examples("caddyfile")
    (tmp_path / "Caddyfile").write_text(example, "utf-8")
    home = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    line = [caddy, "validate", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=home)
    assert done.returncode == 0, done.stderr


def test_systemd_takes_its_examples(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    units = examples("ini")
    names = re.findall(r"^/etc/systemd/system/(\S+):$", PAGE, re.MULTILINE)
    assert len(units) == len(names) == 4
    for name, unit in zip(names, units, strict=True):
        there = unit.replace("/srv/newsletter/venv/bin/newsletter", "/bin/true")
        (tmp_path / name).write_text(there, "utf-8")
    line = [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "newsletter" in line]
    assert ours == []


def test_the_commands_of_the_units_and_of_the_image_are_ours() -> None:
    image = (ROOT / "Dockerfile").read_text("utf-8")
    (arguments,) = re.findall(r'^CMD \["serve", (.*)\]$', image, re.MULTILINE)
    # Below the group, as it runs: a command remembers for ever how it was first asked for its help.
    context = serve.make_context(
        "serve",
        re.findall(r'"([^"]+)"', arguments),
        parent=group.make_context("newsletter", [], resilient_parsing=True),
    )
    assert isinstance(context, Context)
    assert (context.params["host"], context.params["port"]) == ("0.0.0.0", 8000)
    for command in re.findall(r"^ExecStart=\S+/newsletter (\S+)", PAGE, re.MULTILINE):
        assert command in ("serve", "worker", "backup")


def test_the_image_is_made_of_files_that_are_there_and_of_no_secret() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    wheel = (ROOT / "pyproject.toml").read_text("utf-8").partition("force-include]")[2].partition("\n[")[0]
    for name in re.findall(r'^"([^"]+)" =', wheel, re.MULTILINE):
        assert any(name == each or name.startswith(f"{each}/") for each in kept), name
    image = (ROOT / "Dockerfile").read_text("utf-8")
    for lock in {*re.findall(r"requirements/\w+\.lock", image + PAGE)}:
        assert "--hash=sha256:" in (ROOT / lock).read_text("utf-8")
    assert "USER newsletter" in image
    assert "--require-hashes" in image
