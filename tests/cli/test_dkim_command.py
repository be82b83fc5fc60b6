"""`newsletter dkim …` as an admin meets it."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest

from newsletter.cli import run
from newsletter.cli.dkim import SUBCOMMANDS
from newsletter.config import load_config
from newsletter.dkim import Signer, load_keys
from newsletter.envelope import Envelope, Recipient, Sealed
from newsletter.rendering.edition import Edition, Mailbox

Said = tuple[int, str, str]
Say = Callable[..., Said]


@pytest.fixture
def say(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `newsletter …` in an empty workspace; its exit code, output and errors."""

    def run_one(*arguments: str) -> Said:
        capsys.readouterr()
        code = run([*arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_one


def use(workspace: Path, *selectors: str, domain: str = "") -> None:
    lines = f"dkim:\n  selectors: [{', '.join(selectors)}]\n" + (f"  domain: {domain}\n" if domain else "")
    path = workspace / "newsletter.yaml"
    path.write_text(path.read_text("utf-8").partition("dkim:")[0] + lines, "utf-8")


def shown(say: Say) -> dict[str, dict[str, object]]:
    """What `dkim show --json` says of each key."""
    return {key["selector"]: key for key in json.loads(say("dkim", "show", "--json")[1])["keys"]}


def test_the_commands_are_listed_with_examples(say: Say) -> None:
    code, out, _ = say("dkim", "--help")
    assert code == 0
    for name, _, help in SUBCOMMANDS:
        assert f" {name} {help}" in " ".join(out.split())
        assert "Examples:" in say("dkim", name, "--help")[1]


def test_a_new_key_is_for_its_owner_only_and_git_does_not_see_it(say: Say, workspace: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(workspace)], check=True)
    code, _, _ = say("dkim", "new", "s1")
    assert code == 0
    folder = workspace / "subscribers" / "dkim"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "s1.pem").stat().st_mode) == 0o600
    listed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "dkim" not in listed.stdout


@pytest.mark.parametrize(("options", "letter"), [((), "n"), (("--ed25519",), "e")])
def test_a_key_without_a_name_is_called_by_the_month(options: tuple[str, ...], letter: str, say: Say) -> None:
    months = {f"{letter}{datetime.now(UTC):%Y-%m}"}
    assert say("dkim", "new", *options)[0] == 0
    months.add(f"{letter}{datetime.now(UTC):%Y-%m}")
    assert shown(say).keys() <= months


def test_what_it_prints_makes_a_signature_that_verifies(say: Say, workspace: Path) -> None:
    """The whole way: the record as printed into the DNS, the lines as printed into newsletter.yaml."""
    records: dict[str, str] = {}
    for arguments in (("s1",), ("s2", "--ed25519")):
        _, out, _ = say("dkim", "new", *arguments)
        (name,) = re.findall(r"(?m)^ +name +(\S+)$", out)
        (records[name],) = re.findall(r"(?m)^ +value +(.+)$", out)
        if "IN TXT" in out:
            strings = re.findall(r'"([^"]*)"', out)
            assert "".join(strings) == records[name]
            assert max(map(len, strings)) <= 255
        (selectors,) = re.findall(r"(?m)^   dkim:\n     selectors: \[(.+)\]$", out)
        use(workspace, selectors)
    config = load_config(workspace, {})
    assert config.dkim
    assert config.dkim.selectors == ("s1", "s2")
    domain = config.sender.address.partition("@")[2]
    assert set(records) == {f"s1._domainkey.{domain}", f"s2._domainkey.{domain}"}
    edition = Edition(
        key="x",
        language="en",
        direction="ltr",
        kind="transactional",
        subject="x",
        sender=Mailbox(address=config.sender.address),
        html="x",
        text="x",
    )
    now = datetime.now(UTC)
    envelope = Envelope(edition)
    sealed = envelope.seal_all([Recipient(key="d", address="ana@example.net")], date=now)
    (message,) = Signer(envelope, load_keys(config.dkim), domain=domain).sign_all(sealed, date=now)
    assert isinstance(message, Sealed)
    raw = b"".join(message.pieces)
    for number in (0, 1):
        assert dkim.DKIM(raw).verify(
            number, dnsfunc=lambda name, timeout=5: records[name.decode().rstrip(".")].encode()
        )


def test_a_key_is_never_replaced(say: Say, workspace: Path) -> None:
    say("dkim", "new", "s1")
    path = workspace / "subscribers" / "dkim" / "s1.pem"
    before = path.read_bytes()
    use(workspace, "s1")
    code, out, err = say("dkim", "new", "s1", "--ed25519")
    assert (code, out) == (1, "")
    assert "is there already: it is an RSA key of 2,048 bits and is in use" in err
    assert path.read_bytes() == before
    path.write_bytes(b"")
    assert "something that is no key" in say("dkim", "new", "s1")[2]
    assert path.read_bytes() == b""


@pytest.mark.parametrize("selector", ["../s1", "a.b", "a b", "x" * 64, "-x-", ""])
def test_a_name_that_is_no_selector_makes_nothing(selector: str, say: Say, workspace: Path) -> None:
    if selector:
        assert say("dkim", "new", "--", selector)[0] == 2
        assert not (workspace / "subscribers" / "dkim").exists()
    assert not list(workspace.parent.glob("s1.pem"))


def test_a_change_of_keys_keeps_those_of_the_other_kind(say: Say, workspace: Path) -> None:
    say("dkim", "new", "s1")
    say("dkim", "new", "s2", "--ed25519")
    use(workspace, "s1", "s2", domain="example.org")
    _, out, _ = say("dkim", "new", "s3")
    assert "selectors: [s3, s2]\n     domain: example.org" in out
    assert "s3._domainkey.example.org" in out
    assert "selectors: [s1, s4]" in say("dkim", "new", "s4", "--ed25519")[1]


def test_show_prints_the_records_again_and_which_are_in_use(say: Say, workspace: Path) -> None:
    assert "No keys in subscribers/dkim; make one" in say("dkim", "show")[1]
    _, made, _ = say("dkim", "new", "s1")
    say("dkim", "new", "s2", "--ed25519")
    use(workspace, "s1", "s2")
    say("dkim", "new", "old")
    code, out, _ = say("dkim", "show")
    assert code == 0
    for line in re.findall(r"(?m)^   (?:name|value) .*$", made):
        assert line in out
    assert "s1: an RSA key of 2,048 bits, in use" in out
    assert "old: an RSA key of 2,048 bits, not in use" in out
    keys = shown(say)
    assert {name: (key["kind"], key["bits"], key["in_use"]) for name, key in keys.items()} == {
        "s1": ("rsa", 2048, True),
        "s2": ("ed25519", 256, True),
        "old": ("rsa", 2048, False),
    }
    assert all("".join(key["strings"]) == key["value"] for key in keys.values())  # type: ignore[arg-type]
    assert "PRIVATE" not in out


def test_show_fails_for_a_key_in_use_that_cannot_sign_and_warns_of_others(say: Say, workspace: Path) -> None:
    say("dkim", "new", "s1")
    junk = workspace / "subscribers" / "dkim" / "junk.pem"
    junk.touch(0o600)
    junk.write_bytes(b"junk")
    use(workspace, "s1")
    code, out, _ = say("dkim", "show")
    assert code == 0
    assert "subscribers/dkim/junk.pem: warning: is not a private key in PEM form" in out
    use(workspace, "s1", "gone")
    code, out, _ = say("dkim", "show")
    assert code == 1
    assert "subscribers/dkim/gone.pem: error: there is no such key" in out
    assert "newsletter dkim new gone" in out
    found = json.loads(say("dkim", "show", "--json")[1])["findings"]
    assert {(each["code"], each["severity"]) for each in found} == {
        ("dkim.missing", "error"),
        ("dkim.not-a-key", "warning"),
    }


def test_a_domain_in_letters_outside_ascii_is_printed_as_the_dns_has_it(say: Say, workspace: Path) -> None:
    use(workspace, "s1", domain="bücher.example")
    assert "s1._domainkey.xn--bcher-kva.example" in say("dkim", "new", "s1")[1]
    use(workspace, "s1", domain="no domain")
    code, out, err = say("dkim", "new", "s2")
    assert (code, out) == (1, "")
    assert "dkim.domain: is not a domain" in err
