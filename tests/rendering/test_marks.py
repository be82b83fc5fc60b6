"""Marks in Jinja's output lead every piece of it back to its template and line, and leave no trace."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from newsletter.errors import ConfigError, Finding, TemplateError, Where
from newsletter.rendering.marks import LineMarks, Origins, at, explain, strip

WHITESPACE = [{}, {"trim_blocks": True}, {"lstrip_blocks": True}, {"trim_blocks": True, "lstrip_blocks": True}]


def environment(templates: Mapping[str, str], *, marks: bool = True, **options: bool) -> Environment:
    made = Environment(
        loader=DictLoader(dict(templates)),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[LineMarks] if marks else [],
        **options,  # type: ignore[arg-type]
    )
    made.globals["at"] = at if marks else lambda where: ""
    return made


def render(templates: Mapping[str, str] | str, **values: object) -> tuple[str, Origins]:
    sources = {"t.j2": templates} if isinstance(templates, str) else templates
    text, origins = strip(environment(sources).get_template("t.j2").render(**values))
    assert text == environment(sources, marks=False).get_template("t.j2").render(**values)
    return text, origins


def origin(rendered: tuple[str, Origins], word: str) -> str:
    text, origins = rendered
    return str(origins.find(text.index(word)).template)


def test_text_of_a_template_leads_to_its_line() -> None:
    rendered = render("<p>one\ntwo\n\nthree</p>")
    assert [origin(rendered, word) for word in ("one", "two", "three")] == ["t.j2:1", "t.j2:2", "t.j2:4"]


def test_output_of_an_expression_leads_to_the_expressions_line_however_many_lines_it_has() -> None:
    rendered = render("<p>\n{{ value }}\n<b>after</b></p>", value="first\nsecond\nthird")
    assert origin(rendered, "first") == origin(rendered, "third") == "t.j2:2"
    assert origin(rendered, "<b>after") == "t.j2:3"


def test_two_expressions_with_only_white_space_between_keep_their_own_lines() -> None:
    rendered = render("{{ a }}\n\n{{ b }}", a="AAA", b="BBB")
    assert [origin(rendered, word) for word in ("AAA", "BBB")] == ["t.j2:1", "t.j2:3"]


def test_an_included_template_leads_to_itself() -> None:
    rendered = render({"t.j2": "<a>\n{% include 'part.j2' %}\n<z>", "part.j2": "<p>\n<i>inner</i>"})
    assert [origin(rendered, word) for word in ("<a>", "<i>", "<z>")] == ["t.j2:1", "part.j2:2", "t.j2:3"]


def test_an_imported_macro_leads_to_its_own_template() -> None:
    sources = {
        "t.j2": "{% from 'm.j2' import card %}\n<x>{{ card('T') }}</x>\n<y>",
        "m.j2": "\n{% macro card(title) %}\n  <b>{{ title }}</b>\n{% endmacro %}",
    }
    rendered = render(sources)
    assert [origin(rendered, word) for word in ("<x>", "<b>", "T<", "<y>")] == ["t.j2:2", "m.j2:3", "m.j2:3", "t.j2:3"]


def test_the_body_of_a_call_leads_to_the_caller() -> None:
    macro = "{% macro wrap() %}<div>\n{{ caller() }}</div>{% endmacro %}"
    source = f"{macro}\n{{% call wrap() %}}\n<em>body</em>\n{{% endcall %}}\n<z>"
    rendered = render(source)
    assert [origin(rendered, word) for word in ("<div>", "<em>", "</div>", "<z>")] == [
        "t.j2:1",
        "t.j2:4",
        "t.j2:2",
        "t.j2:6",
    ]


def test_a_block_of_a_child_template_leads_to_the_child() -> None:
    sources = {
        "t.j2": "{% extends 'base.j2' %}\n{% block body %}\n<c>{% endblock %}",
        "base.j2": "<a>\n{% block body %}{% endblock %}\n<z>",
    }
    rendered = render(sources)
    assert [origin(rendered, word) for word in ("<a>", "<c>", "<z>")] == ["base.j2:1", "t.j2:3", "base.j2:3"]


def test_every_turn_of_a_loop_leads_to_the_same_line() -> None:
    text, origins = render("\n{% for n in (1, 2, 3) %}\n<i>{{ n }}</i>\n{% endfor %}")
    assert [origins.find(hit.start()).template.line for hit in re.finditer("<i>", text)] == [3, 3, 3]


@pytest.mark.parametrize(
    "source",
    [
        "\n\n  {%- if true -%}\n\n  <w>\n{%- endif %}",
        "{# a\ncomment -#}\n\n\n<w>",
        "{% raw %}\n{{ }}\n{% endraw %}\n<w>",
        "{% raw -%}\n{{ }}\n{%- endraw -%}\n<w>",
        "{{ 'x\ny' }}\n\n<w>",
    ],
    ids=["minus", "comment", "raw", "raw-minus", "string"],
)
@pytest.mark.parametrize("options", WHITESPACE, ids=str)
def test_lines_are_right_after_white_space_control(source: str, options: dict[str, bool]) -> None:
    line = source[: source.index("<w>")].count("\n") + 1
    text, origins = strip(environment({"t.j2": source}, **options).get_template("t.j2").render())
    assert text == environment({"t.j2": source}, marks=False, **options).get_template("t.j2").render()
    assert origins.find(text.index("<w>")).template == Where(path="t.j2", line=line)


def test_text_inside_raw_leads_to_its_line() -> None:
    rendered = render("<a>{% raw %}\n\n<b>{{ x }}</b>{% endraw %}")
    assert origin(rendered, "<b>") == "t.j2:3"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro kind() %}wide{% endmacro %}{{ 'yes' if kind() == 'wide' else 'no' }}",
        "{% macro key() %}k{% endmacro %}{{ {'k': 'found'}[key()|string] }}",
        "{% macro m() %}\n{% endmacro %}[{{ 'empty' if not m()|trim else 'full' }}]",
        "{% set x %}\n  <b>1</b>  \n{% endset %}[{{ x|trim }}]",
        "{% set x | trim %}\n  <b>1</b>  \n{% endset %}[{{ x }}]",
        "{% set a = 1 %}{% set b, c = 2, 3 %}<b>{{ a + b + c }}</b>",
        "{% filter trim %}\n <b>x</b>\n {% endfilter %}|",
        "{% filter indent(4) %}<b>x</b>\n\n  <i>y</i>\n{% endfilter %}",
        "{% filter upper %}<b>x</b>{% endfilter %}",
        "{% macro w() %}[{{ caller()|trim }}]{% endmacro %}{% call w() %}\n <p>x</p>\n{% endcall %}",
        "{% set u %}https://example.org/?q={{ 'a b' }}{% endset %}{{ u|urlencode }}",
    ],
)
def test_captured_output_behaves_as_without_marks(source: str) -> None:
    render(source)  # compares with an environment without marks


FRAGMENTS = st.recursive(
    st.sampled_from(
        [
            "<w>ID</w>", "\n", " ", "\n  ", "word", "{{ value }}", "{{- value }}", "{{ value -}}", "{# note #}",
            "{#- n\n -#}",
            "{% raw %}{{ <w>ID</w>\n{% endraw %}", "{% include 'part.j2' %}", "{% set x = '\n' %}", "\r\n",
            "{{ card('q') }}",
        ]
    ),
    lambda inner: st.tuples(
        st.sampled_from(
            [
                ("{% if true %}", "{% endif %}"),
                ("{%- if true -%}", "{%- endif -%}"),
                ("{% for n in (1, 2) %}", "{% endfor %}"),
                ("{% call card('c') %}", "{% endcall %}"),
                ("{% filter trim %}", "{% endfilter %}"),
                ("{% set y %}", "{% endset %}{{ y }}"),
                ("{% macro m() %}", "{% endmacro %}{{ m() }}"),
            ]
        ),
        st.lists(inner, max_size=4),
    ).map(lambda made: made[0][0] + "".join(made[1]) + made[0][1]),
    max_leaves=12,
)  # fmt: skip
CARD = "{% macro card(t) %}\n<w>{{ t }}{{ caller() if caller is defined }}</w>{% endmacro %}"


@settings(max_examples=150)
@given(parts=st.lists(FRAGMENTS, max_size=10), options=st.sampled_from(WHITESPACE))
@example(parts=["{% raw %}", "<w>ID</w>", "{% endraw %}"], options={})
def test_clean_text_is_what_rendering_without_marks_gives_and_every_tag_leads_to_its_line(
    parts: list[str], options: dict[str, bool]
) -> None:
    source = "{% from 'card.j2' import card with context %}" + "".join(parts)
    count = iter(range(10_000))
    source = re.sub("ID", lambda _: f"id{next(count)}.", source)
    templates = {"t.j2": source, "part.j2": "<p>\n</p>\n", "card.j2": CARD}
    value = "v\n<v>\n"
    text, origins = strip(environment(templates, **options).get_template("t.j2").render(value=value))
    assert text == environment(templates, marks=False, **options).get_template("t.j2").render(value=value)
    lines = {
        name: number
        for number, line in enumerate(re.split(r"\r\n|\r|\n", source), start=1)
        for name in re.findall(r"<w>(id\d+\.)", line)
    }
    for hit in re.finditer(r"<w>(id\d+\.)", text):
        assert origins.find(hit.start()).template == Where(path="t.j2", line=lines[hit[1]])


def test_text_that_a_template_may_hold_as_a_literal_mark_is_refused_with_its_line() -> None:
    made = environment({"t.j2": "ok\n{{ 1 }}\n\ufdd0"})
    with pytest.raises(Exception, match="reserved") as caught:
        made.get_template("t.j2")
    assert explain(caught.value).findings[0].where == Where(path="t.j2", line=3)


# at


ISSUE = Where(path="issues/2017-11-19.yaml", line=14, column=3)


def test_at_names_the_place_of_the_issue_until_the_next_one_or_none() -> None:
    other = Where(path="issues/2017-11-19.yaml", line=30)
    source = "<a>{{ at(one) }}<b>{{ v }}</b>{{ at(two) }}<c>{{ at(none) }}<d>"
    text, origins = render(source, one=ISSUE, two=other, v="value")
    places = [origins.find(text.index(word)).issue for word in ("<a>", "<b>", "value", "<c>", "<d>")]
    assert places == [None, ISSUE, ISSUE, other, None]


def test_at_keeps_the_templates_line() -> None:
    rendered = render("<a>\n\n{{ at(where) }}\n<b>", where=ISSUE)
    assert origin(rendered, "<b>") == "t.j2:4"


def test_at_reaches_into_included_templates() -> None:
    text, origins = render({"t.j2": "{{ at(w) }}{% include 'p.j2' %}{{ at(none) }}", "p.j2": "<p>"}, w=ISSUE)
    assert origins.find(text.index("<p>")).issue == ISSUE


@given(path=st.text(min_size=1), line=st.integers(0, 9999), column=st.integers(0, 99))
def test_at_carries_any_path(path: str, line: int, column: int) -> None:
    where = Where(path=path, line=line, column=column)
    text, origins = strip(f"a{at(where)}b")
    assert text == "ab"
    assert origins.find(1).issue == Where(
        path=re.sub("[\ufdd0\ufdd1]", "", path), line=line, column=column
    ) or not path.strip("\ufdd0\ufdd1")


# Origins


def test_find_line_takes_lines_and_columns_of_the_clean_text() -> None:
    text, origins = render("<a>{% for n in (1, 2) %}\n<i>{{ n }}</i><b>{% endfor %}\n<z>")
    lines = text.split("\n")
    assert lines[2] == "<i>2</i><b>"
    assert origins.find_line(3, 1).template.line == 2
    assert origins.find_line(4).template.line == 3


def test_text_without_marks_counts_its_own_lines() -> None:
    text, origins = strip("a\nb\nc")
    assert (text, origins.find(4).template) == ("a\nb\nc", Where(path="<mjml>", line=3))


@given(st.text())
def test_strip_leaves_text_without_marks_alone(text: str) -> None:
    clean = re.sub("[\ufdd0\ufdd1]", "", text)
    assert strip(clean)[0] == clean


@given(st.text(alphabet="\ufdd0\ufdd1=!@:0123a\n"))
def test_no_damaged_mark_makes_looking_up_fail(text: str) -> None:
    clean, origins = strip(text)
    for offset in range(len(clean) + 1):
        origins.find(offset)


# explain


class Story:
    def __init__(self, title: str) -> None:
        self.title = title


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """Writes the templates, renders `t.j2`, and returns the finding that its failure became."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()

    def run(sources: Mapping[str, str] | str, **values: object) -> Finding:
        files = {"t.j2": sources} if isinstance(sources, str) else sources
        for name, source in files.items():
            Path("templates", name).write_text(source, "utf-8")
        made = SandboxedEnvironment(
            loader=ChoiceLoader([FileSystemLoader("templates")]),
            undefined=StrictUndefined,
            autoescape=True,
            extensions=[LineMarks],
        )
        with pytest.raises(Exception) as caught:
            made.get_template("t.j2").render(**values)
        error = explain(caught.value, made)
        assert isinstance(error, TemplateError)
        (finding,) = error.findings
        assert finding.severity == "error"
        return finding

    return run


@pytest.mark.parametrize(
    ("source", "code", "line", "message", "hint"),
    [
        ("a\n{% if %}", "template.syntax", 2, "Expected an expression", "correct"),
        ("a\n\n{% endfi %}", "template.syntax", 3, "unknown tag 'endfi'", "correct"),
        ("\n{{ 'x'|uper }}", "template.syntax", 2, "No filter named 'uper'", 'did you mean "upper"?'),
        ("\n{{ x is defned }}", "template.syntax", 2, "No test named 'defned'", 'did you mean "defined"?'),
        ("\n\n{{ storry.title }}", "template.undefined", 3, "'storry' is undefined", 'did you mean "story"?'),
        ("{{ story.titel }}", "template.undefined", 1, "has no attribute 'titel'", 'did you mean "title"?'),
        ("\n{{ map.colour }}", "template.undefined", 2, "has no attribute 'colour'", 'did you mean "colours"?'),
        ("{% for s in [story] %}\n{{ s.tilte }}{% endfor %}", "template.undefined", 2, "'tilte'", '"title"'),
        ("\n{% include 'prat.j2' %}", "template.missing", 2, 'no template "prat.j2"', 'did you mean "part.j2"?'),
        ("\n{{ 1 + 'a' }}", "template.failed", 2, "TypeError", "look at the expression"),
        ("\n{{ 1 // 0 }}", "template.failed", 2, "ZeroDivisionError", "look at the expression"),
        ("\n\n{{ story.__class__.__mro__ }}", "template.forbidden", 3, "unsafe", "plain values"),
    ],
)
def test_a_failing_template_is_named_with_line_and_next_step(
    failing: Callable[..., Finding], source: str, code: str, line: int, message: str, hint: str
) -> None:
    values = {"story": Story("T"), "map": {"colours": 1}}
    finding = failing({"t.j2": source, "part.j2": ""}, **values)
    assert (finding.code, finding.where) == (code, Where(path="templates/t.j2", line=line))
    assert message in finding.message
    assert hint in finding.help
    assert "\n" not in finding.message


def test_a_failure_in_an_included_macro_names_the_macros_file(failing: Callable[..., Finding]) -> None:
    finding = failing(
        {"t.j2": "\n{% from 'm.j2' import m %}\n{{ m() }}", "m.j2": "{% macro m() %}\n{{ oops }}{% endmacro %}"}
    )
    assert finding.where == Where(path="templates/m.j2", line=2)


def test_a_syntax_error_in_an_included_template_names_that_template(failing: Callable[..., Finding]) -> None:
    finding = failing({"t.j2": "{% include 'p.j2' %}", "p.j2": "\n\n{{"})
    assert finding.where == Where(path="templates/p.j2", line=3)


def test_a_python_function_called_from_a_template_is_blamed_on_the_templates_line(
    failing: Callable[..., Finding],
) -> None:
    def broken() -> str:
        raise LookupError("no such block")

    finding = failing("\n\n{{ f() }}", f=broken)
    assert (finding.where, finding.message) == (Where(path="templates/t.j2", line=3), "no such block (LookupError)")


def test_a_missing_main_template_is_named(failing: Callable[..., Finding]) -> None:
    finding = failing({})
    assert (finding.code, finding.where) == ("template.missing", Where(path="t.j2"))


def test_a_template_that_is_not_utf8_is_named(failing: Callable[..., Finding]) -> None:
    Path("templates/t.j2").write_bytes(b"caf\xe9")
    finding = failing({})
    assert (finding.code, finding.where) == ("template.encoding", Where(path="templates/t.j2"))


def test_findings_raised_inside_a_template_are_kept() -> None:
    inner = Finding(code="x.y", severity="error", where=ISSUE, message="m")
    assert explain(ConfigError([inner])).findings == (inner,)
