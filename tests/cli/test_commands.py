"""The command line as an editor meets it: what it prints, its exit codes, and never a traceback for a mistake."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from newsletter.cli import COMMANDS, run
from newsletter.config import load_config
from newsletter.content.issue import load_issue

ROOT = Path(__file__).parents[2]


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err


Run = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process."""
    for name in ("NEWSLETTER_BASE_URL", "NEWSLETTER_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)

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


def real(*arguments: str | Path, cwd: Path | None = None, stdout: Any = subprocess.PIPE, **environment: str) -> Any:
    """The same in a process of its own, as the shell would start it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEWSLETTER_")}
    return subprocess.run(
        [sys.executable, "-m", "newsletter", *map(str, arguments)],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


# --- help ---


@pytest.mark.parametrize(("name", "module", "help"), COMMANDS)
def test_each_command_has_the_help_that_the_list_shows_and_an_example(
    say: Run, name: str, module: str, help: str
) -> None:
    command = getattr(importlib.import_module(f"newsletter.cli.{module}"), name)
    assert command.help.strip().split("\n")[0] == help
    said = say(name, "--help")
    assert said.code == 0
    examples = said.out.partition("Example")[2]
    assert f"newsletter {name}" in examples


def test_every_command_that_exists_is_listed(say: Run) -> None:
    listed = {name for name, _, _ in COMMANDS}
    for module in {module for _, module, _ in COMMANDS}:
        found = [
            each
            for each in vars(importlib.import_module(f"newsletter.cli.{module}")).values()
            if isinstance(each, click.Command)
        ]
        groups = [each for each in found if isinstance(each, click.Group)]
        inside = {name for group in groups for name in group.list_commands(click.Context(group))}
        assert {each.name for each in found} <= listed | inside
    said = say("--help")
    assert said.code == 0
    assert all(re.search(rf"^  {name} ", said.out, re.MULTILINE) for name in listed)


HEAVY = {"jinja2", "lxml", "markdown_it", "premailer", "yaml", "mjml", "nh3", "rich", "feedparser", "watchfiles"}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from newsletter.cli import run; run(['--help']); run(['--version']); "
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("chekc", 'did you mean "check"?'), ("bild", 'did you mean "build"?'), ("xyzzy", "the commands are demo, init")],
)
def test_an_unknown_command_is_answered_with_the_nearest_or_with_all(say: Run, typed: str, hint: str) -> None:
    said = say(typed)
    assert (said.code, hint in said.err) == (2, True)


def test_the_version_is_told(say: Run) -> None:
    assert re.fullmatch(r"newsletter \d+\.\d+\.\d+\n", say("--version").out)


# --- the workspace ---


# What a command cannot do without.
NEEDED = {
    "send": ("2017-11-19",),
    "pause": ("1",),
    "resume": ("1",),
    "cancel": ("1",),
    "resolve": ("1", "--sent"),
    "backup": ("news.tar.gz",),
    "archive": ("--out", "public"),
    "dkim": ("show",),
}
ELSEWHERE = ("init", "collect", "subscribers", "restore")  # with tests of their own, or at home in any folder


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS if name not in ELSEWHERE])
def test_without_a_workspace_each_command_says_so_and_what_to_do(
    say: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say(command, *NEEDED.get(command, ()))
    assert said.code == 1
    assert "no newsletter.yaml here or in any folder above" in said.err
    assert "newsletter init DIR" in said.err
    assert said.out == ""


def test_a_workspace_is_found_from_a_folder_inside_it_and_by_its_name_from_elsewhere(
    say: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = desk.resolve()
    monkeypatch.chdir(root / "templates" / "partials")
    assert say("check").code == 0
    (root.parent / "elsewhere").mkdir()
    monkeypatch.chdir(root.parent / "elsewhere")
    assert say("-w", "../desk", "check", "2017-11-19").out == "../desk/issues/2017-11-19.yaml: no problems found\n"
    assert say("-w", root, "check").out == f"{root}/issues/2017-11-19.yaml: no problems found\n"


@pytest.mark.parametrize("name", ["nowhere", "newsletter.yaml"])
def test_a_workspace_that_is_no_folder_is_a_usage_error_even_inside_another(say: Run, desk: Path, name: str) -> None:
    said = say("-w", name, "check")
    assert (said.code, name in said.err) == (2, True)


def test_every_mistake_in_the_configuration_is_told_with_its_line(say: Run, desk: Path) -> None:
    spoil(desk / "newsletter.yaml", "week_ends: sunday", "week_ends: sonntag")
    spoil(desk / "newsletter.yaml", "base_url: https", "base_ulr: https")
    said = say("check")
    assert said.code == 1
    assert re.search(r"newsletter\.yaml:\d+:\d+: error: week_ends", said.err)
    assert 'did you mean "base_url"?' in said.err


# --- init ---


def test_a_new_workspace_passes_its_check_and_builds(say: Run, desk: Path) -> None:
    assert say("check").out == "issues/2017-11-19.yaml: no problems found\n"
    assert say("build").code == 0
    assert say("format", "--check").code == 0


def test_a_new_workspace_has_a_secret_of_its_own_that_only_its_owner_reads_and_git_ignores(
    say: Run, desk: Path, tmp_path: Path
) -> None:
    assert (desk / ".env").stat().st_mode & 0o777 == 0o600
    assert {".env", "build/", "*.sqlite3*"} <= set((desk / ".gitignore").read_text("utf-8").split("\n"))
    say("init", tmp_path / "other")
    assert (tmp_path / "other" / ".env").read_bytes() != (desk / ".env").read_bytes()
    assert len(load_config(desk, {}).secret_key) >= 32


def test_init_takes_an_empty_folder_and_refuses_one_with_something_in_it(say: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert say("init", tmp_path / "empty").code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "newsletter.yaml").write_text("mine", "utf-8")
    (tmp_path / "file").write_text("mine", "utf-8")
    for name in ("full", "file"):
        said = say("init", tmp_path / name)
        assert (said.code, "not empty" in said.err) == (1, True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["newsletter.yaml"]


def test_an_installed_package_makes_a_workspace_and_carries_nothing_private(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("newsletter", "issues", "templates", "subscribers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    for name in ("newsletter.yaml", "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    for name in (".env", "subscribers/newsletter.sqlite3", "subscribers/newsletter.sqlite3-wal"):
        (tree / name).write_text("private", "utf-8")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for folder in ("issues", "templates", "subscribers"):
        wanted = {path for path in (ROOT / folder).rglob("*") if path.is_file() and "sqlite3" not in path.name}
        assert {f"newsletter/sample/{path.relative_to(ROOT)}" for path in wanted} <= names
    assert not [name for name in names if "sqlite3" in name or ".env" in name]
    for arguments in (["init", "news"], ["-w", "news", "check"], ["-w", "news", "build"]):
        done = real(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
        assert (done.returncode, done.stderr) == (0, "")


# --- new ---


def test_new_takes_the_coming_end_of_a_week_and_begins_no_other_before_that_is_written(say: Run, desk: Path) -> None:
    spoil(desk / "newsletter.yaml", "week_ends: sunday", "week_ends: friday")
    assert say("new").code == 0
    _, name = sorted(path.stem for path in (desk / "issues").glob("20*"))
    first = datetime.date.fromisoformat(name)
    today = datetime.datetime.now().astimezone().date()
    assert first.weekday() == 4
    assert datetime.timedelta(-1) <= first - today <= datetime.timedelta(6)  # -1: midnight may fall in between
    said = say("new")
    assert said.code == 1
    assert f"newsletter new {first + datetime.timedelta(7)}" in said.err


def test_what_is_never_read_is_told_and_so_is_what_concerns_the_whole_workspace(say: Run, desk: Path) -> None:
    (desk / "issues" / "2017-11-26.yml").write_text("date: 2017-11-26\n", "utf-8")
    spoil(desk / "newsletter.yaml", "Peru Rights Weekly, 1 Example", "Street 5 # 10-20, 1 Example")
    spoil(desk / "templates" / "theme.yaml", 'ink: "#17202a"', 'ink: "#d0d0d0"')
    spoil(desk / "templates" / "confirm.txt.j2", "{{ notice.button }}", "{{ notice.buton }}")
    said = say("check")
    assert said.code == 1
    assert "issues/2017-11-26.yml: warning: is never read [workspace.stray]" in said.out
    assert 'postal_address.en: "# 10-20, 1 Example Street, Exampletown" is a comment' in said.out
    assert "light.ink: a contrast of 1.5 on card" in said.out
    assert "templates/confirm.txt.j2:3: error" in said.out


def test_new_goes_on_with_the_number_and_the_blocks_of_the_issue_before_it(say: Run, desk: Path) -> None:
    spoil(desk / "issues" / "2017-11-19.yaml", "blocks: [aims, history, human-rights, join]", "blocks: [join, aims]")
    said = say("new", "2017-11-26")
    assert said.out.startswith("issues/2017-11-26.yaml: ")
    config = load_config(desk, {})
    issue = load_issue(desk / "issues" / "2017-11-26.yaml", config)
    before = load_issue(desk / "issues" / "2017-11-19.yaml", config)
    assert issue.number == (before.number or 0) + 1
    assert [block.name for block in issue.blocks] == ["join", "aims"]
    assert issue.date == datetime.date(2017, 11, 26)


def test_new_refuses_a_date_that_has_a_file_and_what_is_no_date(say: Run, desk: Path) -> None:
    before = (desk / "issues" / "2017-11-19.yaml").read_bytes()
    said = say("new", "2017-11-19")
    assert (said.code, "issues/2017-11-19.yaml is already there" in said.err) == (1, True)
    assert (desk / "issues" / "2017-11-19.yaml").read_bytes() == before
    assert say("new", "19/11/2017").code == 2


def test_a_fresh_issue_is_canonical_but_not_sent_before_its_placeholders_are_filled(say: Run, desk: Path) -> None:
    say("new", "2017-11-26")
    said = say("check", "2017-11-26")
    assert said.code == 1
    for place in ("subject", "preheader", "intro", "stories[0].title", "stories[0].summary"):
        assert f"{place}: still the … of a fresh file (en, es)" in said.out
    assert said.out.count("content.placeholder") == 5
    assert say("build", "2017-11-26").code == 1


def test_the_first_issue_of_a_workspace_is_number_one_with_every_block(say: Run, desk: Path) -> None:
    (desk / "issues" / "2017-11-19.yaml").unlink()
    say("new", "2017-11-26")
    issue = load_issue(desk / "issues" / "2017-11-26.yaml", load_config(desk, {}))
    assert (issue.number, len(issue.blocks)) == (1, 4)


# --- format ---


@pytest.fixture
def messy(desk: Path) -> Path:
    path = desk / "issues" / "2017-11-19.yaml"
    text = path.read_text("utf-8")
    path.write_text("number: 5\n" + text.replace("number: 5\n", "", 1), "utf-8")
    return path


def test_format_check_and_diff_change_nothing_and_exit_1(say: Run, messy: Path) -> None:
    before = messy.read_bytes()
    said = say("format", "--check")
    assert (said.code, "not in canonical form" in said.out, "1 to change" in said.out) == (1, True, True)
    said = say("format", "--diff")
    assert (said.code, "\n-date: 2017" in said.out, "\n+date: 2017" in said.out) == (1, True, True)
    assert messy.read_bytes() == before


def test_format_writes_the_canonical_form_once(say: Run, messy: Path) -> None:
    said = say("format", messy)
    assert (said.code, said.out) == (0, "issues/2017-11-19.yaml: formatted\n1 file, 1 changed\n")
    assert messy.read_text("utf-8").startswith("date: 2017-11-19\nnumber: 5\n")
    assert say("format", messy).out == "1 file, 0 changed\n"
    assert say("format", "--check", messy).code == 0


def test_format_leaves_a_broken_file_alone_reports_it_and_formats_the_others(say: Run, messy: Path) -> None:
    broken = messy.with_name("2017-11-26.yaml")
    broken.write_text("dat: 2017-11-26\n", "utf-8")
    said = say("format")
    assert said.code == 1
    assert "issues/2017-11-26.yaml:1:1: error: dat: unknown key" in said.err
    assert broken.read_text("utf-8") == "dat: 2017-11-26\n"
    assert "issues/2017-11-19.yaml: formatted" in said.out


# --- check and build ---


def test_only_errors_make_a_check_fail(say: Run, desk: Path) -> None:
    spoil(desk / "issues" / "2017-11-19.yaml", "date: 2017-11-19\n    section", "date: 2017-11-01\n    section")
    said = say("check")
    assert (said.code, "1 warning" in said.out) == (0, True)
    spoil(desk / "issues" / "2017-11-19.yaml", "images/plaza.png", "images/plaza.svg")
    said = say("check")
    assert (said.code, "1 error, 1 warning" in said.out) == (1, True)


def test_check_as_json_has_one_shape(say: Run, desk: Path) -> None:
    assert say("check", "--json").out == "[]\n"
    spoil(desk / "issues" / "2017-11-19.yaml", "images/plaza.png", "images/plaza.svg")
    said = say("check", "--json")
    (finding,) = json.loads(said.out)
    assert said.code == 1
    assert list(finding) == ["issue", "code", "severity", "path", "line", "column", "message", "help"]
    assert (finding["issue"], finding["path"]) == ("issues/2017-11-19.yaml", "issues/2017-11-19.yaml")
    assert (finding["code"], finding["severity"]) == ("image.missing", "error")
    assert isinstance(finding["line"], int)
    assert isinstance(finding["column"], int)


def test_an_issue_is_named_by_path_or_date_or_is_the_newest(say: Run, desk: Path) -> None:
    say("new", "2017-11-12")
    for named in ([], ["2017-11-19"], ["issues/2017-11-19.yaml"], ["2017-11-19.yaml"]):
        assert say("check", *named).out.startswith("issues/2017-11-19.yaml: ")
    said = say("check", "2017-11-91")
    assert (said.code, "did you mean 2017-11-19?" in said.err) == (1, True)
    assert say("check", "--all").out.count("issues/2017-11-1") > 2


@pytest.mark.parametrize("arguments", [["check"], ["check", "--all"], ["build", "--all"], ["build"], ["demo"]])
def test_a_workspace_without_issues_says_how_to_begin(say: Run, desk: Path, arguments: list[str]) -> None:
    (desk / "issues" / "2017-11-19.yaml").unlink()
    said = say(*arguments)
    assert (said.code, "newsletter new" in said.err) == (1, True)


def test_build_writes_beside_the_issue_or_where_it_is_told(say: Run, desk: Path, tmp_path: Path) -> None:
    say("build")
    say("build", "--out", tmp_path / "out")
    say("build", "--all", "--out", tmp_path / "all")
    written = [
        sorted(path.name for path in folder.iterdir())
        for folder in (desk / "build" / "2017-11-19", tmp_path / "out", tmp_path / "all" / "2017-11-19")
    ]
    assert written == [["en.eml", "en.html", "en.txt", "es.eml", "es.html", "es.txt", "images", "manifest.json"]] * 3


def test_build_into_a_folder_of_ones_own_removes_nothing_there(say: Run, desk: Path) -> None:
    before = sorted((desk / "issues" / "images").iterdir())
    (desk / "notes.txt").write_text("mine", "utf-8")
    say("build", "--out", ".")
    say("build", "--out", "issues")
    assert set(before) <= set((desk / "issues" / "images").iterdir())
    assert (desk / "notes.txt").read_text("utf-8") == "mine"


def test_build_prints_each_file_and_the_hash_of_the_manifest(say: Run, desk: Path) -> None:
    said = say("build")
    assert re.search(r"^  manifest [0-9a-f]{64}$", said.out, re.MULTILINE)
    assert re.search(r"^  en\.html +[\d,]+ bytes$", said.out, re.MULTILINE)


def test_an_issue_with_an_error_is_not_built_and_those_without_are(say: Run, desk: Path) -> None:
    say("new", "2017-11-26")
    said = say("build", "--all")
    assert said.code == 1
    assert "issues/2017-11-26.yaml: not built: " in said.err
    assert (desk / "build" / "2017-11-19" / "manifest.json").is_file()
    assert not (desk / "build" / "2017-11-26").exists()


# --- schema ---


def plain(node: Any) -> Any:
    """YAML as an editor's schema checker sees it: a date is the text that stands in the file."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(each) for each in node]
    return node.isoformat() if isinstance(node, datetime.date) else node


def test_the_schemas_accept_the_sample_and_refuse_what_the_loader_refuses(say: Run, desk: Path) -> None:
    issue = plain(yaml.safe_load((ROOT / "issues" / "2017-11-19.yaml").read_text("utf-8")))
    for of, content in (
        ("issue", issue),
        ("blocks", plain(yaml.safe_load((ROOT / "issues" / "blocks.yaml").read_text("utf-8")))),
        ("story", issue["stories"][0]),
    ):
        schema = json.loads(say("schema", "--of", of).out)
        jsonschema.Draft202012Validator.check_schema(schema)
        checker = jsonschema.Draft202012Validator(schema)
        assert list(checker.iter_errors(content)) == []
        assert list(checker.iter_errors(content | {"dat": "x"}))
    assert say("schema").out == say("schema", "--of", "issue").out


# --- what else can go wrong ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "x" * 300],
        ["check", "templates"],
        ["check", "/dev/null"],
        ["build", "--out", "newsletter.yaml/x"],
        ["build", "--out", "newsletter.yaml"],
        ["build", "--nope"],
        ["format", "nowhere.yaml"],
        ["format", "newsletter.yaml"],
        ["format", "subscribers/sample.csv"],
        ["init", "newsletter.yaml/x"],
        ["init", "/dev/null/x"],
        ["init"],
        ["new", "2017-02-30"],
        ["schema", "--of", "nothing"],
        ["-w", "/nowhere", "check"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40].encode("ascii", "replace").decode(),
)
def test_a_mistake_is_answered_in_words_with_exit_code_1_or_2(say: Run, desk: Path, arguments: list[str]) -> None:
    said = say(*arguments)
    assert said.code in (1, 2)
    assert len(said.err.strip()) > 10


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("newsletter.yaml", b"title: [\n"),
        ("newsletter.yaml", b"\xff\xfe"),
        ("issues/2017-11-19.yaml", b""),
        ("issues/2017-11-19.yaml", b"\x00"),
        ("issues/blocks.yaml", b"- x\n"),
        ("templates/theme.yaml", b"{}"),
        ("templates/labels.yaml", b"{}"),
        ("templates/digest.mjml.j2", b"{% for %}"),
        ("templates/digest.txt.j2", b"{{ nothing }}"),
        ("templates/content.css.j2", b"@media x {}"),
        ("templates/partials/layout.mjml.j2", b"<mjml>"),
    ],
)
def test_a_broken_file_is_named_by_every_command(say: Run, desk: Path, path: str, content: bytes) -> None:
    (desk / path).write_bytes(content)
    for command in ("check", "build", "demo"):
        said = say(command)
        assert (said.code, path in said.out + said.err) == (1, True)


@pytest.mark.parametrize("path", ["build", "build/2017-11-19", "build/2017-11-19/en.html"])
def test_what_is_in_the_way_of_a_build_is_named_by_its_own_name(say: Run, desk: Path, path: str) -> None:
    if path.endswith(".html"):
        (desk / path).mkdir(parents=True)
    else:
        (desk / path).parent.mkdir(exist_ok=True)
        (desk / path).write_text("a file", "utf-8")
    said = say("build")
    assert said.code == 1
    assert re.match(rf"error: \S*{path}\S*: (File exists|Not a directory|Is a directory)\n$", said.err)


def test_an_outbox_that_cannot_be_written_is_exit_code_3(say: Run, desk: Path) -> None:
    (desk / "newsletter.yaml").write_text(
        (desk / "newsletter.yaml").read_text("utf-8") + "outbox: newsletter.yaml/outbox\n", "utf-8"
    )
    said = say("send", "2017-11-19", "--test", "me@example.org")
    assert (said.code, "outbox" in said.err) == (3, True)


def test_a_reader_that_goes_away_ends_the_command_quietly(desk: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = real("build", cwd=desk.resolve(), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_the_output_is_told_in_words(desk: Path) -> None:
    with open("/dev/full", "w") as full:
        done = real("check", cwd=desk.resolve(), stdout=full)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_terminal_without_utf8_gets_every_line(desk: Path) -> None:
    done = real("build", cwd=desk.resolve(), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "manifest " in done.stdout


def test_a_name_that_is_not_utf8_is_answered_in_words(desk: Path) -> None:
    done = real("check", b"\xff.yaml".decode("utf-8", "surrogateescape"), cwd=desk.resolve())
    assert (done.returncode, "there is no issue ?.yaml" in done.stderr) == (1, True)


def test_a_broken_configuration_is_told_as_json_too(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "newsletter.yaml").write_text("titel: x\n", "utf-8")
    assert run(["check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {"issue": None, "code": "config.unknown-key", "path": "newsletter.yaml", "line": 1}.items() <= told[
        0
    ].items()


def test_format_gives_a_file_with_crlf_line_ends_its_canonical_bytes(workspace: Path) -> None:
    path = workspace / "issues" / "2017-11-19.yaml"
    path.write_bytes(b"\xef\xbb\xbfdate: 2017-11-19\r\nsubject: News\r\n")
    assert run(["format", "--check"]) == 1
    assert run(["format"]) == 0
    assert path.read_bytes() == b"date: 2017-11-19\nsubject: News\n"


def test_a_repository_without_files_may_become_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "news" / ".git").mkdir(parents=True)
    assert run(["init", str(tmp_path / "news")]) == 0
