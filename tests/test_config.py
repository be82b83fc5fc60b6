"""newsletter.yaml, .env and the environment: what they say, and everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from newsletter.config import CONFIG, ENVIRONMENT, FILE, Config, find_workspace, load_config
from newsletter.errors import ConfigError, Finding
from newsletter.shape import json_schema

SECRET = "s" * 32
SAMPLE = Path(__file__).parents[1] / FILE


def said(root: Path, environ: dict[str, str] | None = None) -> list[str]:
    """What is said about a workspace that cannot be used, as place: message."""
    with pytest.raises(ConfigError) as caught:
        load_config(root, environ or {})
    assert all(each.message and each.help and each.code.startswith("config.") for each in caught.value.findings)
    return [f"{each.where}: {each.message}" for each in caught.value.findings]


def write(root: Path, text: str, name: str = FILE) -> None:
    (root / name).write_text(text, "utf-8")


def append(root: Path, text: str) -> int:
    """Adds lines to newsletter.yaml; the number of the first of them."""
    old = (root / FILE).read_text("utf-8")
    write(root, old + text)
    return old.count("\n") + 1


def test_a_short_file_and_the_defaults(config: Config) -> None:
    assert config.title == {"en": "Valley News", "es": "Noticias del Valle"}
    assert config.sender.address == "news@example.org"
    assert config.languages == ("en", "es")
    assert config.default_language == "en"
    assert config.postal_address == {"en": "1 Mill Street, Exampletown"}
    assert (config.missing_translation, config.week_ends, config.group_by) == ("fallback", "sunday", "auto")
    assert list(config.sections) == ["justice", "land"]
    assert (config.images, config.list, config.provider, config.secret_key) == ("link", "weekly", "outbox", "")
    assert str(config.marks["base_url"]) == "newsletter.yaml:6:1"


def test_the_sample_workspace_loads_and_fits_its_schema() -> None:
    config = load_config(SAMPLE.parent, {})
    schema = json_schema(CONFIG, title="Configuration", languages=config.languages)
    Draft202012Validator(schema).validate(yaml.load(SAMPLE.read_bytes(), yaml.BaseLoader))


def test_a_slash_at_the_end_of_the_base_url_goes(workspace: Path) -> None:
    assert load_config(workspace, {"NEWSLETTER_BASE_URL": "https://staging.example.org//"}).base_url == (
        "https://staging.example.org"
    )


def test_every_problem_of_every_file_is_reported_at_once(workspace: Path) -> None:
    write(workspace, "titel: A\nsender: {name: B, adress: c@d.org}\nlanguages: [en, en, es]\nweek_ends: sonday\n")
    write(workspace, "NEWSLETTER_BASE_URLS=https://x.org\nnonsense\n", ".env")
    assert said(workspace, {"NEWSLETTER_SECRET": SECRET}) == [
        'newsletter.yaml:1:1: titel: unknown key, did you mean "title"?',
        'newsletter.yaml:2:19: sender.adress: unknown key, did you mean "address"?',
        "newsletter.yaml:2:9: sender.address: is missing",
        'newsletter.yaml:4:12: week_ends: must be one of the choices, is "sonday", did you mean "sunday"?',
        "newsletter.yaml:1:1: title: is missing",
        "newsletter.yaml:1:1: base_url: is missing",
        ".env:2: is not NAME=value",
        '.env:1: NEWSLETTER_BASE_URLS: unknown variable, did you mean "NEWSLETTER_BASE_URL"?',
        'the environment: NEWSLETTER_SECRET: unknown variable, did you mean "NEWSLETTER_SECRET_KEY"?',
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tagline: {fr: Bonjour}\n", "0:11: tagline.fr: not a language of this workspace"),
        ("group_by: no\n", '0:11: group_by: must be one of the choices, is "no"'),
        ("sections: {}\n", "0:1: sections: stands twice here; the first is in line 8"),
        ("list: two words\n", '0:7: list: must be one word (letters, digits, - and _), is "two words"'),
        ("tagline: We are #1\n", "0:17: #1 begins a comment: it and the rest of the line is left out"),
    ],
)
def test_a_wrong_setting_is_reported_at_its_place(workspace: Path, lines: str, message: str) -> None:
    line = append(workspace, lines)
    assert said(workspace)[0].startswith(f"newsletter.yaml:{line}{message[1:]}")


PROVIDERS = "providers: {box: {outbox: box}, relay: {smtp: {host: relay.example.org}}}"


@pytest.mark.parametrize(
    "lines",
    [
        "provider: sendgrid\nfallback: [outbox]",
        "provider: sendgrid\nfallback: [relay, box]",
        "provider: outbox\nfallback: [relay]",
        "fallback: [sendgrid]",
    ],
)
def test_a_folder_is_no_fallback_for_a_way_that_reaches_people(workspace: Path, lines: str) -> None:
    append(workspace, f"{lines}\n{PROVIDERS}\n")
    (message,) = said(workspace)
    assert "is a folder, which reaches nobody" in message


def test_folders_among_themselves_and_a_way_named_twice_are_fine(workspace: Path) -> None:
    append(workspace, f"provider: outbox\nfallback: [box, outbox, box]\n{PROVIDERS}\n")
    assert load_config(workspace, environ={}).route == "outbox,box"


def test_a_way_out_whose_key_would_be_another_secret_is_refused(workspace: Path) -> None:
    append(workspace, "provider: secret\nproviders: {secret: {sendgrid: {region: eu}}}\n")
    (message,) = said(workspace, {"NEWSLETTER_SECRET_KEY": "k" * 40})
    assert "cannot be called so, since NEWSLETTER_SECRET_KEY is something else" in message
    assert "kkk" not in message


@pytest.mark.parametrize("languages", ["[]", "[EN]", "en"])
def test_a_workspace_has_at_least_one_language(workspace: Path, languages: str) -> None:
    text = (workspace / FILE).read_text("utf-8").replace("[en, es]", languages)
    write(workspace, text)
    assert any(each.startswith("newsletter.yaml:5:") for each in said(workspace))


@pytest.mark.parametrize("url", ["https://example.org/?x=1", "https://example.org/#top"])
def test_a_base_url_that_no_path_can_follow_is_refused(workspace: Path, url: str) -> None:
    assert said(workspace, {"NEWSLETTER_BASE_URL": url}) == [
        "the environment: NEWSLETTER_BASE_URL: cannot have a ? or a #"
    ]
    write(workspace, (workspace / FILE).read_text("utf-8").replace("https://news.example.org", f'"{url}"'))
    assert said(workspace) == ["newsletter.yaml:6:1: base_url: cannot have a ? or a #"]


def test_an_empty_title_is_missing(workspace: Path) -> None:
    write(workspace, 'title: ""\nsender: {name: {en: ""}, address: a@b.org}\nbase_url: https://x.org\n')
    assert said(workspace) == [
        "newsletter.yaml:2:10: sender.name: is empty",
        "newsletter.yaml:1:1: title: is empty",
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"- a\n", "must be a map of keys"),
        (b"title: \xe9\n", "is not UTF-8"),
        (b"a: [\n", "not closed"),
    ],
)
def test_a_file_of_another_kind_is_refused(workspace: Path, raw: bytes, message: str) -> None:
    (workspace / FILE).write_bytes(raw)
    assert message in said(workspace)[0]


def test_a_missing_file_or_a_folder_in_its_place_is_a_finding(workspace: Path) -> None:
    (workspace / FILE).unlink()
    assert said(workspace) == ["newsletter.yaml: there is no such file"]
    (workspace / FILE).mkdir()
    assert said(workspace) == ["newsletter.yaml: cannot be read: Is a directory"]


# --- finding the workspace ---


def test_the_workspace_is_the_nearest_folder_above(workspace: Path) -> None:
    deep = workspace / "issues" / "2017-11-19"
    deep.mkdir()
    assert find_workspace(deep) == workspace.resolve()
    assert find_workspace(workspace) == workspace


def test_outside_of_any_workspace_the_way_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_workspace(tmp_path)
    assert "newsletter init" in caught.value.findings[0].help


def test_names_in_messages_are_relative_where_they_can_be_and_always_printable(config: Config, tmp_path: Path) -> None:
    assert config.shown(tmp_path / "issues" / "x.yaml") == "issues/x.yaml"
    assert config.shown(Path("/elsewhere/x.yaml")) == "/elsewhere/x.yaml"
    assert config.shown(Path("caf\udce9.yaml")) == "caf�.yaml"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert config.shown(Path("loop/x.yaml")) == "loop/x.yaml"


# --- variables ---


@pytest.mark.parametrize(
    "line",
    [
        f"NEWSLETTER_SECRET_KEY={SECRET}",
        f"export NEWSLETTER_SECRET_KEY={SECRET}",
        f"  NEWSLETTER_SECRET_KEY = {SECRET}  ",
        f'NEWSLETTER_SECRET_KEY="{SECRET}"',
        f"NEWSLETTER_SECRET_KEY='{SECRET}'",
        f"NEWSLETTER_SECRET_KEY={SECRET} # made in May",
        f'NEWSLETTER_SECRET_KEY="{SECRET}"   # made in May',
        f"# keys\n\nOTHER=1\nNEWSLETTER_SECRET_KEY={SECRET}\r\nEMPTY=\n",
        f"\ufeffNEWSLETTER_SECRET_KEY={SECRET}",
        f"NEWSLETTER_SECRET_KEY=short\nNEWSLETTER_SECRET_KEY={SECRET}",
    ],
)
def test_a_variable_is_read_from_a_file_as_shells_write_it(workspace: Path, line: str) -> None:
    write(workspace, line, ".env")
    assert load_config(workspace, {}).secret_key == SECRET


def test_signs_inside_a_value_belong_to_it(workspace: Path) -> None:
    value = "a=b#c\"d'e f#" + SECRET
    write(workspace, f"NEWSLETTER_SECRET_KEY={value}\n", ".env")
    assert load_config(workspace, {}).secret_key == value


@pytest.mark.parametrize(
    "line", ["words", "=x", "1A=b", "A B=c", 'A="b', "A='b\"", 'A="b" c', "export", "A: b", "\x00"]
)
def test_a_line_that_is_no_variable_is_reported_without_its_text(workspace: Path, line: str) -> None:
    write(workspace, f"# one\n{line}\n", ".env")
    assert said(workspace) == [".env:2: is not NAME=value"]


def test_the_environment_wins_and_is_named_when_it_is_wrong(workspace: Path) -> None:
    write(workspace, "NEWSLETTER_BASE_URL=https://file.example.org\n", ".env")
    assert load_config(workspace, {}).base_url == "https://file.example.org"
    assert load_config(workspace, {"NEWSLETTER_BASE_URL": ""}).base_url == "https://file.example.org"
    environ = {"NEWSLETTER_BASE_URL": "https://env.example.org"}
    assert load_config(workspace, environ).base_url == "https://env.example.org"
    assert said(workspace, {"NEWSLETTER_BASE_URL": "env.example.org"}) == [
        'the environment: NEWSLETTER_BASE_URL: must be a full http(s) address, is "env.example.org"'
    ]


def test_a_short_secret_is_refused_and_never_shown(workspace: Path) -> None:
    write(workspace, "NEWSLETTER_SECRET_KEY=hunter2\n", ".env")
    assert said(workspace) == [".env:1: NEWSLETTER_SECRET_KEY: shorter than 32 characters"]
    write(workspace, "", ".env")
    assert SECRET not in repr(load_config(workspace, {"NEWSLETTER_SECRET_KEY": SECRET}))


def test_a_variable_file_in_another_encoding_is_reported(workspace: Path) -> None:
    (workspace / ".env").write_bytes(b"# caf\xe9\n")
    assert said(workspace) == [".env:1:6: is not UTF-8: byte 0xe9 ('é' in Windows-1252)"]


def test_what_others_keep_in_the_environment_is_not_our_business(workspace: Path) -> None:
    assert load_config(workspace, {"PATH": "/bin", "NEWSLETTERS": "x", "HOME": "\udcff"})


def test_every_setting_and_variable_says_what_it_is_for() -> None:
    assert all(each.help.endswith(".") for each in CONFIG.fields)
    assert all(each.help.endswith(".") for each in ENVIRONMENT)


pieces = st.sampled_from(
    [
        "NEWSLETTER_SECRET_KEY",
        "NEWSLETTER_BASE_URL",
        "X",
        "=",
        '"',
        "'",
        "#",
        " ",
        "export ",
        "\n",
        "\t",
        "é",
        "\x00",
        "https://x.org",
    ]
)


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=40), st.lists(pieces, max_size=12).map(lambda each: "".join(each).encode())))
def test_no_variable_file_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "variables"
    root.mkdir(exist_ok=True)
    write(root, "title: A\nsender: {name: B, address: c@d.org}\nbase_url: https://x.org\n")
    (root / ".env").write_bytes(raw)
    findings: tuple[Finding, ...] = ()
    try:
        load_config(root, {})
    except ConfigError as error:
        findings = error.findings
    for each in findings:
        assert each.message.isprintable()
        assert each.help
        assert each.where


@pytest.mark.parametrize("url", ["https://bücher.example", "https://[2001:db8::1]:8000/news"])
def test_a_base_url_whose_host_cannot_name_the_list_is_refused(workspace: Path, url: str) -> None:
    path = workspace / "newsletter.yaml"
    path.write_text(path.read_text("utf-8").replace("https://news.example.org", url), "utf-8")
    with pytest.raises(ConfigError, match="base_url: must have a host name in ASCII"):
        load_config(workspace, {})
