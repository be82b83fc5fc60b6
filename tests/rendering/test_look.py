from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from newsletter.config import Config, load_config
from newsletter.errors import TemplateError
from newsletter.rendering.look import Labels, direction, labels_for, load_labels, load_theme, words_of
from newsletter.rendering.render import sample_root

SAMPLE = sample_root() / "templates"


def written(name: str, old: str, new: str) -> Path:
    """The sample's file in the current folder, one thing changed in it."""
    text = (SAMPLE / name).read_text("utf-8")
    assert re.search(old, text)
    Path(name).write_text(re.sub(old, lambda _: new, text, count=1), "utf-8")
    return Path(name)


def problems(path: Path, config: Config) -> list[str]:
    """`file:line: message` of everything that is wrong with a theme or labels file."""
    with pytest.raises(TemplateError) as caught:
        (load_theme if path.name == "theme.yaml" else load_labels)(path, config)
    return [f"{each.where.path}:{each.where.line}: {each.message}" for each in caught.value.findings if each.where]


def line_of(path: Path, words: str) -> int:
    return next(number for number, line in enumerate(path.read_text("utf-8").split("\n"), 1) if words in line)


def test_the_samples_theme_and_labels_load(config: Config) -> None:
    theme = load_theme(SAMPLE / "theme.yaml", config)
    assert theme.light["ink"].startswith("#")
    assert set(theme.light) == set(theme.dark)
    assert {"en", "es"} <= set(load_labels(SAMPLE / "labels.yaml", config))


@pytest.mark.parametrize("colour", ["eaeef1", "red", '"#fff"', '"#12345g"', '"#eaeef1; }"', "[1]"])
def test_a_colour_that_is_none_is_named_with_its_line(config: Config, colour: str) -> None:
    path = written("theme.yaml", r'page: "#\w+"', f"page: {colour}")
    (problem,) = problems(path, config)
    assert problem.startswith(f"theme.yaml:{line_of(path, 'page: ')}: light.page: must be a colour written as #rrggbb")


@pytest.mark.parametrize(
    "fonts", ["Georgia; color: red", "Georgia, 'Times", "Georgia,, serif", "url(x)", "a</style>", "Georgia,", "'\""]
)
def test_a_font_list_that_would_break_the_css_is_named_with_its_line(config: Config, fonts: str) -> None:
    path = written("theme.yaml", "headings: .*", f"headings: {json.dumps(fonts)}")
    (problem,) = problems(path, config)
    assert problem == f"theme.yaml:{line_of(path, 'headings:')}: fonts.headings: must be a list of font names"


@pytest.mark.parametrize("fonts", ["Georgia", "-apple-system, 'Segoe UI', Noto Sans, sans-serif", "'PT Serif' , serif"])
def test_lists_of_font_names_are_taken(config: Config, fonts: str) -> None:
    assert load_theme(written("theme.yaml", "headings: .*", f'headings: "{fonts}"'), config).fonts["headings"] == fonts


def test_every_problem_of_a_theme_is_reported_at_once(config: Config) -> None:
    Path("theme.yaml").write_text('fonts: {text: "a;b"}\nlight: {page: red}\ndrak: {}\n', "utf-8")
    found = "\n".join(problems(Path("theme.yaml"), config))
    for words in ("fonts.headings: is missing", "fonts.text: must be", "light.page: must be", 'did you mean "dark"?'):
        assert words in found


def test_a_label_that_is_missing_is_named_at_its_language(config: Config) -> None:
    path = written("labels.yaml", "  read_more: Read more\n", "")
    assert problems(path, config) == [f"labels.yaml:{line_of(path, 'name: English')}: en.read_more: is missing"]


def sample() -> Mapping[str, Labels]:
    return load_labels(SAMPLE / "labels.yaml", load_config(sample_root(), {}))


def test_later_words_that_a_file_lacks_are_those_of_the_sample_in_its_language(config: Config) -> None:
    text = (SAMPLE / "labels.yaml").read_text("utf-8")
    older = re.sub(r"(?m)^  (confirm_lists|(known|link|address|moved)_\w+): .*\n", "", text)
    Path("labels.yaml").write_text(older.replace("\npt:", "\nqu:"), "utf-8")
    labels = load_labels(Path("labels.yaml"), config, lender=sample)
    assert labels["es"]["known_heading"] == sample()["es"]["known_heading"]
    assert labels["es"].lent == {}
    assert labels["qu"]["known_heading"] == sample()["en"]["known_heading"]
    assert set(labels["qu"].lent.values()) == {"en"}
    assert len(labels["qu"].lent) == 19
    assert f"labels.yaml:{line_of(Path('labels.yaml'), 'name: English')}: en.known_text: is missing" in problems(
        Path("labels.yaml"), config
    )


def test_its_own_words_are_kept_and_the_sample_is_not_read_when_nothing_lacks(config: Config) -> None:
    path = written("labels.yaml", "known_heading: .*", "known_heading: Here already")

    def never() -> Mapping[str, Labels]:
        raise AssertionError

    assert load_labels(path, config, lender=never)["en"]["known_heading"] == "Here already"


@pytest.mark.parametrize(
    ("label", "text", "wrong"),
    [
        ("why", "You signed up for {title}.", False),
        ("why", "You signed up.", False),
        ("why", "You signed up for {titel}.", True),
        ("why", "You signed up for {number}.", True),  # a name that another label knows
        ("why", "You signed up for {title", True),
        ("why", "You signed up for {title.__class__}.", True),
        ("why", "You signed up for {title!r:>999999999}.", True),
        ("why", "You signed up for {ti{title}tle}.", True),
        ("why", "You signed up for {}.", True),
        ("contents", "In {title}", True),  # nothing is filled in there
        ("date", "{year}/{month}/{day}, {weekday}", False),
        ("date_short", "{day:02}", True),
    ],
)
def test_a_placeholder_that_nothing_fills_is_named_with_its_line(
    config: Config, label: str, text: str, wrong: bool
) -> None:
    path = written("labels.yaml", f"  {label}: .*", f'  {label}: "{text}"')
    if wrong:
        (problem,) = problems(path, config)
        assert problem == f"labels.yaml:{line_of(path, text)}: en.{label}: holds braces that nothing fills"
    else:
        assert load_labels(path, config)["en"][label] == text


@pytest.mark.parametrize(("key", "count"), [("months", 12), ("weekdays", 7)])
def test_months_and_weekdays_must_be_complete(config: Config, key: str, count: int) -> None:
    path = written("labels.yaml", rf"{key}: \[\w+, ", f"{key}: [")
    assert problems(path, config) == [f"labels.yaml:{line_of(path, f'{key}:')}: en.{key}: must be {count} names"]


@pytest.mark.parametrize("name", ["theme.yaml", "labels.yaml"])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ":1:"),
        (b"- a\n", ":1:"),
        (b"en: hello\n", ":1:"),
        (b"a: [\n", ":1:"),
        (b"en:\n\tname: x\n", ":2:"),
        (b"en: Per\xfa\n", ":1:"),
        (b"en: &a {b: *a}\n", ":1:"),
    ],
)
def test_a_broken_file_is_named_with_its_line(config: Config, name: str, content: bytes, where: str) -> None:
    Path(name).write_bytes(content)
    assert any(f"{name}{where}" in problem for problem in problems(Path(name), config))


@pytest.mark.parametrize("name", ["theme.yaml", "labels.yaml"])
def test_a_file_that_is_not_there_is_named(config: Config, name: str) -> None:
    assert problems(Path(name), config) == [f"{name}:0: there is no such file"]


def test_dates_are_written_as_the_language_has_them_with_a_capital(config: Config) -> None:
    labels = load_labels(SAMPLE / "labels.yaml", config)
    assert labels["es"].date(date(2026, 11, 24)) == "Martes, 24 de noviembre de 2026"
    assert labels["en"].date(date(2017, 11, 19), "date_short") == "Sunday, 19 November"


def test_a_language_gets_its_own_words_or_those_of_the_nearest_it_is_a_kind_of(config: Config) -> None:
    known = load_labels(SAMPLE / "labels.yaml", config)
    known |= {"zh-Hant": known["en"], "zh": known["es"]}
    for language, expected in (("es", "es"), ("es-PE", "es"), ("zh-Hant-TW", "en"), ("zh-CN", "es")):
        words, findings = labels_for(language, known, config, Path("labels.yaml"))
        assert (words.language, findings) == (expected, [])
    assert words_of("qu", known) is None


def test_words_of_another_language_come_with_a_warning_that_names_both(config: Config) -> None:
    known = {"es": load_labels(SAMPLE / "labels.yaml", config)["es"]}
    words, (finding,) = labels_for("qu", known, config, Path("templates/labels.yaml"))
    assert words.language == "es"
    assert (finding.severity, finding.message) == ("warning", "has no words for qu: those of es stand in")


def test_labels_without_any_language_are_an_error_that_names_the_file(config: Config) -> None:
    with pytest.raises(TemplateError, match=r"^templates/labels\.yaml: error: has no language in it"):
        labels_for("en", {}, config, Path("templates/labels.yaml"))


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        *[(each, "rtl") for each in ("ar", "he", "fa-IR", "ur-PK", "az-Arab", "AR-EG", "pa-Arab-PK", "ckb")],
        *[(each, "ltr") for each in ("en", "es-PE", "az-Latn-AZ", "ar-Latn", "zh-Hant", "qu", "arn")],
    ],
)
def test_direction_follows_the_script_or_else_the_language(language: str, expected: str) -> None:
    assert direction(language) == expected
